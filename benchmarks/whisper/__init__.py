"""Pruned Whisper encoders under Whisper's own decoder: recognition without any retraining (zero-shot)."""
