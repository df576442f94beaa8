"""The SUPERB score and the mini-score."""
