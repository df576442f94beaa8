"""Fine-tuning for speech recognition and pruning in one pass (Xu et al. 2025): character CTC, self-pinching gates."""
