"""Free recorded speech from Debian packages: the embedded corpus, and what the embedded teacher is trained on."""
