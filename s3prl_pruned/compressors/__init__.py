"""Basic compression techniques (Lin et al. 2024): prune a trained encoder in rounds, and re-train it between them.

CompressConfig -> plan.py: whether the rate can be reached; what is done first (fewer layers, low-rank factors)
               -> compressor.py: rounds that prune heads, rows or single weights
               -> pretrain/pruners/techniques.py: distillation between the rounds, checkpoints
               -> export/: pruned heads and rows are cut away; pruned single weights stay as zeros
"""
