"""The timing harness: models of any library side by side on the same input (`tools/timing.py`).

`names` parses models' names, `shapes` has named structures, `weights` the models' weights, `models` builds them
(`timed_model`), `variants` applies the variants of a name, `adapters` calls each library and `runtimes` the runtimes
other than torch; `inputs` makes the input, `checks` checks that equal models compute the same, `runs` times calls by
the device's clock, `clock` compares models; `memory`, `shares` and `work` measure further costs, and `rows` puts the
results together; `benchmark` calls all of these, `environment` describes the machine, and `document` makes the JSON
document (tables and figures of it: `report/timing*.py`).

`chunks` starts processes for short audio, `exports` measures size and time of all exports of a folder for the
trade-off report, `latency` times the parts of one shape for targets of a speed-up.
"""
