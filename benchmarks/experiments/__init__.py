"""The paper's tables and figures in miniature: `python -m benchmarks.experiments NAME`."""
