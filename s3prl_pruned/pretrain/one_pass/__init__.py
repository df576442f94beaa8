"""Fine-tuning for a task and pruning in one pass (Xu et al. 2025): everything that does not depend on the task."""
