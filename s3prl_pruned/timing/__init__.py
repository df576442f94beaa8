"""The timing harness: models of any library side by side on the same input (`tools/timing.py`).

`names` says what a model may be called, `shapes` which structures have a name, `weights` which weights they get,
`models` builds them (`timed_model`), `variants` says what a variant does to them, `adapters` calls each library and
`runtimes` what is not torch; `inputs` makes what they are given, `checks` sees that equal models compute the same,
`runs` calls them by the device's clock, `clock` compares; `memory`, `shares` and `work` tell what else they cost, and
`rows` puts it together; `benchmark` does all of it, `environment` says what it depends on, and `document` is the one
JSON document that comes out (tables and pictures of it: `report/timing*.py`).

`chunks` starts processes for short audio, `exports` sizes and times all exports of a folder for the trade-off report,
`latency` the parts of one shape for targets of a speed-up.
"""
