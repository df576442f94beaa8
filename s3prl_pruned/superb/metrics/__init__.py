"""The metrics of the benchmark that s3prl does not compute itself, or prints without keeping: pure functions.

All rates are fractions, but for ASR's, which are in percent as s3prl's are. Nothing here needs s3prl, torch or the
model.
"""
