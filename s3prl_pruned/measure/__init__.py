"""What a model costs and how a run went: timing, pictures, and the screen that `make run` ends with."""
