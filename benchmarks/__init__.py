"""Programs that make the embedded speech, the embedded teacher and MINI-SUPERB, and our experiments.

Not installed; run from the clone: `python -m benchmarks.NAME`.
"""
