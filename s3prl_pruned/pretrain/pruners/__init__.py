"""What takes parts of a student away while it trains: one Protocol (`pruner.py`), one file for each way to do it."""
