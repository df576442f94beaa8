"""Features for people: an encoder in one line, from a wav file to its states, and of a whole folder."""
