"""What makes the embedded speech and teacher and MINI-SUPERB, and our experiments.

Not installed; run from the clone: `python -m benchmarks.NAME`.
"""
