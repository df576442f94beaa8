"""Pruners, which remove parts of a student during training: one Protocol (`pruner.py`), and one file per method."""
