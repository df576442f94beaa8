"""The benchmark's metrics that s3prl does not compute, or prints without saving them: pure functions.

All rates are fractions, except ASR's, which are in percent as in s3prl. Nothing here needs s3prl, torch or the model.
"""
