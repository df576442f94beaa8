"""Fine-tune for speech recognition and prune in one pass (Xu et al. 2025): CTC on characters, self-pinching gates."""
