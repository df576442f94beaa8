"""The basic techniques (Lin et al. 2024): a trained encoder made smaller step by step, re-trained between the steps."""
