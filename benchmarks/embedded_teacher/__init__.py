"""The embedded teacher: a small WavLM trained on the states of Whisper's encoder, on freely licensed speech."""
