"""Free recorded speech from Debian packages: the embedded corpus, and the embedded teacher's training data."""
