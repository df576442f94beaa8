"""How diagonal attention heads are, before and after pruning: `python -m benchmarks.diagonality`."""
