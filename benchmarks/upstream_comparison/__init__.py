"""Upstreams compared on the embedded ASR: `python -m benchmarks.upstream_comparison`."""
