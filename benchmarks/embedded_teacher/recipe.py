"""Settings for training the embedded teacher. The defaults are those of the committed weights."""

from dataclasses import dataclass

from s3prl_pruned.config import UserError


@dataclass(kw_only=True)
class TeacherRecipe:
    """Distillation of Whisper's encoder states into a small WavLM."""

    total_steps: int = 7_300
    """Optimiser steps. May change on resuming, as long as the decay has not begun."""

    cnn_steps: int = 1_000
    """Steps, of `total_steps`, in which only the convolutions learn to predict the log-mel spectrum: joint training
    learns the spectrum from the raw waveform most slowly."""

    cnn_batch_seconds: float = 12.0
    """Seconds of audio per batch in these steps."""

    lr: float = 1e-3
    """AdamW's peak learning rate, reached `warmup_steps` after the convolutions' own steps."""

    cnn_lr: float = 3e-3
    """Learning rate in the convolutions' own steps."""

    warmup_steps: int = 400
    """Steps over which `lr` rises from 0: a post-norm encoder needs them."""

    decay_fraction: float = 0.3
    """Share of the steps, at the end, over which `lr` falls linearly to 0; constant before. May change on resuming."""

    weight_decay: float = 0.01
    """AdamW's weight decay, on matrices and kernels."""

    gradient_clipping: float = 1.0
    """Maximum norm of the gradient."""

    ema_decay: float = 0.998
    """Decay of the moving average of the weights, which is exported."""

    crop_seconds: tuple[float, ...] = (2.0, 3.0, 5.0)
    """Lengths of the crops in seconds; all crops of a batch have the same length."""

    batch_seconds: float = 15.0
    """Seconds of audio per batch."""

    english_weight: float = 3.0
    """How much more often a second of English is sampled than a second of another language."""

    mel_weight: float = 1.0
    """Factor on the L1 between the log-mel spectrum and its linear prediction from the convolutions' output."""

    mel_decades: float = 5.0
    """Power below the loudest of a crop, in factors of 10, at which the log-mel spectrum is clipped. Whisper's 8 reach
    into the noise floor, and the convolutions then learn half as fast."""

    student_layers: tuple[int, int, int] = (3, 5, 6)
    """Layers whose outputs predict Whisper's blocks 2 and 3 and its final norm."""

    bf16: bool = True
    """Autocast to bfloat16. It doubles the speed of a CPU with AMX and slows down one without."""

    seed: int = 0
    """Seed of the initial weights and of the batches."""

    log_step: int = 50
    """Steps between two lines of `log.jsonl`."""

    save_step: int = 400
    """Steps between two checkpoints, exports and evaluations on the held-out speech."""

    def validate(self) -> None:
        """Raise UserError if a setting makes no sense."""
        for name in ("total_steps", "warmup_steps", "log_step", "save_step"):
            if getattr(self, name) < 1:
                raise UserError(f"`{name}` must be at least 1, but is {getattr(self, name)}.")
        if not 0 <= self.cnn_steps < self.total_steps:
            raise UserError(f"`cnn_steps` must be below `total_steps`, but is {self.cnn_steps}.")
        if not self.crop_seconds or not all(1 <= seconds <= 29 for seconds in self.crop_seconds):
            raise UserError(f"`crop_seconds` must be between 1 and 29, but are {list(self.crop_seconds)}.")
        for name in ("batch_seconds", "cnn_batch_seconds"):
            if getattr(self, name) < max(self.crop_seconds):
                raise UserError(f"`{name}` must hold the longest crop, but is {getattr(self, name)}.")
        if not 0 < self.decay_fraction <= 1:
            raise UserError(f"`decay_fraction` must be above 0 and at most 1, but is {self.decay_fraction}.")

    @property
    def decay_start(self) -> int:
        """First step with a falling learning rate."""
        return self.total_steps - round(self.decay_fraction * self.total_steps)

    def lr_at(self, step: int) -> float:
        """Learning rate of step `step` = 0, 1, ...: the convolutions' own, then warm-up, constant, decay."""
        if step < self.cnn_steps:
            return self.cnn_lr * min(1.0, (step + 1) / 50, (self.cnn_steps - step) / (0.4 * self.cnn_steps))
        warmup = min(1.0, (step - self.cnn_steps + 1) / self.warmup_steps)
        decay = min(1.0, (self.total_steps - step) / (self.total_steps - self.decay_start))
        return self.lr * min(warmup, decay)
