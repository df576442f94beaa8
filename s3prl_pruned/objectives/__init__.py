"""Training objectives of the student."""
