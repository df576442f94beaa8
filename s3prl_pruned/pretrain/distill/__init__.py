"""Distillation with pruning: the student learns the teacher's hidden states while its masks close."""
