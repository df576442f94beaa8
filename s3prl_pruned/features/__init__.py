"""Feature extraction: an encoder in one line, hidden states of a wav file, and of a whole folder."""
