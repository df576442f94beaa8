"""The basic techniques (Lin et al. 2024): a trained encoder made smaller step by step, re-trained between the steps.

CompressConfig -> plan.py: can the rate be reached, what starts (fewer layers, low-rank factors)
               -> compressor.py: rounds in which heads, rows or single weights go
               -> pretrain/pruners/techniques.py: distillation between the rounds, checkpoints
               -> export/: what is gone is cut away; single weights stay as zeros
"""
