"""The timing harness: models of any library side by side on the same input (`tools/timing.py`).

`names` says what a model may be called, `shapes` which structures have a name, `models` builds them, `variants` says
what a variant does to them, `adapters` calls each library; `inputs` makes what they are given, `checks` sees that
equal models compute the same, `clock` times them, `memory`, `shares` and `work` tell what else they cost; `benchmark`
does all of it, and `document` is the one JSON document that comes out (tables and pictures of it:
`report/timing.py`). `exports` sizes and times all exports of a folder for the trade-off report, `latency` the parts
of one shape for targets of a speed-up.
"""
