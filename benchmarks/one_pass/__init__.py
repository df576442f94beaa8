"""One pass of pruning and fine-tuning against two stages: `python -m benchmarks.one_pass`."""
