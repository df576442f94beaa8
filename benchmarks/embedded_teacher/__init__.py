"""The embedded teacher: a small WavLM taught the states of Whisper's encoder on freely licensed speech."""
