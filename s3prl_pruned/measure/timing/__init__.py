"""The timing harness: models of any library side by side on the same input (`tools/timing.py`).

`names` says what a model may be called, `shapes` which structures have a name, `models` builds them, `inputs` makes what
they are given, `clock` times them, `memory`, `shares` and `work` tell what else they cost, `benchmark` does all of it,
and `report` and `picture` show the one JSON document that comes out (`document`).
"""
