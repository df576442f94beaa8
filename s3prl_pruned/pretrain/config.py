"""Configuration in `config_runner.yaml`, and the recipe of which it is a part. Defaults are those of the paper."""

import os
from dataclasses import dataclass, field

import torch

from s3prl_pruned.config import ADDED, UserError

MOST_WORKERS = 8
"""Largest default number of processes that read audio."""
_STEPS_THAT_COMPILING_PAYS_FOR = 5_000


@dataclass(kw_only=True)
class LoopConfig:
    """The training loop (block `runner:`), with s3prl's names."""

    total_steps: int = 200_000
    """Optimiser steps (paper, section 4.2)."""

    gradient_clipping: float = 5.0
    """Largest norm of the gradient of the weights (DistilHuBERT). Gates and multipliers are not clipped."""

    gradient_accumulate_steps: int = 1
    """Micro-batches per optimiser step, shared by the processes of `torchrun`: the losses do not depend on the number
    of processes."""

    scale_batch_with_processes: bool = False
    """True: every process takes `gradient_accumulate_steps` micro-batches, so that the global batch is larger by the
    number of processes. The learning rate does not change."""

    log_step: int = 50
    """Steps between lines of `log.jsonl` and TensorBoard."""

    save_step: int = 10_000
    """Steps between checkpoints."""

    max_keep: int = 10
    """Number of checkpoints to keep."""

    fp16: bool = True
    """Mixed precision on CUDA (DistilHuBERT); a CPU computes in fp32. Gates and losses are always fp32."""

    bf16: bool = False
    """bfloat16 instead of `fp16`, on any device: no loss scale, no overflow."""

    gradient_checkpointing: bool = False
    """Keep only the inputs of the CNN and of each layer, and compute the rest again in the backward pass: less memory,
    more time, the same losses."""

    max_seconds_at_once: float | None = None
    """Largest number of seconds of audio in one pass. A longer micro-batch is computed in parts of whole utterances,
    and their losses are added: same audio, masks, pairs and losses with less memory (dropout differs). null: no
    limit."""

    compile: bool | None = field(default=None, metadata={"before": False})
    """Compile layers and CNNs of both encoders with torch.compile. null: on CUDA, for runs of at least 5,000 steps,
    since compiling takes minutes before the first step (the progress bar says so); a step of 24 x 15.6 s in bf16 took
    179 ms instead of 248 on an H200. The same kernels are used for every length, unless `datarc.crop_lengths` limits
    the number of lengths. Dropout draws other numbers than without compiling; losses are the same to rounding.
    Evaluation is not compiled."""

    tf32: bool = False
    """Allow TF32 on CUDA: factors of fp32 matrix products and convolutions are rounded to 10 bits of mantissa, which is
    faster. This affects the losses and the positional convolution; if neither `fp16` nor `bf16` is set, it affects all
    products."""

    ema_decay: float | None = field(default=None, metadata=ADDED)
    """Decay of an exponential moving average of the weights, such as 0.999. The average is evaluated and exported
    instead of the weights (`pretrain/average.py`). Masks and sparsity are those of the gates, which are not averaged.
    It takes as much memory as the student's weights. null: no average."""

    max_bad_steps: int = 10
    """Largest number of steps in a run whose loss or gradient is NaN or infinite. Such a step is skipped, reported and
    counted; one more stops the run. (An fp16 gradient that overflows while the loss scale can still fall is not
    counted.)"""

    process_timeout: float = 600.0
    """Seconds that the processes of `torchrun` wait for another one before they stop with an error. A process that
    ended is noticed at once."""

    def micro_batches_per_step(self, processes: int) -> int:
        """Micro-batches per optimiser step, summed over all processes."""
        return self.gradient_accumulate_steps * (processes if self.scale_batch_with_processes else 1)

    def compiles(self, device: str) -> bool:
        """Whether layers are compiled on the device `cpu` or `cuda`."""
        if self.compile is None:
            return device == "cuda" and self.total_steps >= _STEPS_THAT_COMPILING_PAYS_FOR
        return self.compile

    def precision(self, device: str) -> torch.dtype:
        """Precision of the encoders on the device `cpu` or `cuda`."""
        if self.bf16:
            return torch.bfloat16
        return torch.float16 if self.fp16 and device == "cuda" else torch.float32

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        for name in ("total_steps", "gradient_accumulate_steps", "log_step", "save_step", "max_keep"):
            if getattr(self, name) < 1:
                raise UserError(f"`{name}` must be at least 1, but is {getattr(self, name)}.")
        if self.max_bad_steps < 0:
            raise UserError(f"`max_bad_steps` must be at least 0, but is {self.max_bad_steps}.")
        if self.process_timeout <= 0:
            raise UserError(f"`process_timeout` must be positive, but is {self.process_timeout}.")
        if self.max_seconds_at_once is not None and self.max_seconds_at_once <= 0:
            raise UserError(f"`max_seconds_at_once` must be positive, but is {self.max_seconds_at_once}.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise UserError(f"`ema_decay` must be between 0 and 1, or null, but is {self.ema_decay}.")
        if self.gradient_clipping <= 0:
            raise UserError(f"`gradient_clipping` must be positive, but is {self.gradient_clipping}.")


@dataclass(kw_only=True)
class OptimizerConfig:
    """AdamW for the weights, and optimisers for gates and multipliers (block `optimizer:`)."""

    lr: float = 2e-4
    """Peak learning rate of the weights (paper, section 4.2)."""

    warmup_proportion: float = 0.07
    """Share of the steps over which `lr` rises from 0; it then falls linearly to 0 (paper, section 4.2)."""

    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's betas, for the weights (DistilHuBERT)."""

    eps: float = 1e-6
    """AdamW's epsilon, for the weights (DistilHuBERT)."""

    weight_decay: float = 1e-6
    """AdamW's weight decay, for the weights; never for gates or multipliers (DistilHuBERT)."""

    gate_lr: float = 0.02
    """Constant learning rate of log_alpha. Not in the paper; CoFi 0.01 to 0.1, DPHuBERT 0.02."""

    multiplier_lr: float = 0.02
    """Constant learning rate of the Lagrangian's multipliers. Not in the paper; CoFi 0.01, DPHuBERT 0.02."""

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        for name in ("lr", "gate_lr", "multiplier_lr"):
            if getattr(self, name) <= 0:
                raise UserError(f"`{name}` must be positive, but is {getattr(self, name)}.")
        if not 0 <= self.warmup_proportion < 1:
            raise UserError(f"`warmup_proportion` must be in [0, 1), but is {self.warmup_proportion}.")

    def lr_factor(self, step: int, total_steps: int) -> float:
        """Factor on `lr` at optimiser step `step` (1-based): linear warm-up, then linear decay to 0."""
        warmup = self.warmup_proportion * total_steps
        if step < warmup:
            return step / warmup
        return (total_steps - step + 1) / (total_steps - warmup + 1)


@dataclass(kw_only=True)
class DataConfig:
    """Speech to train on (`pretrain_expert: datarc:`)."""

    corpus: str | None = None
    """Folder of audio, in LibriSpeech's layout or any other; manifest of `tools/prepare_data.py`; s3prl's
    `len_for_bucket` CSVs; lhotse CutSet or Shar folder; null is the embedded speech. `--corpus` sets it."""

    libri_root: str | None = None
    """Folder that relative paths in CSVs and lhotse manifests start from (s3prl's name)."""

    sets: tuple[str, ...] | None = None
    """Sub-folders (or CSVs) to use, such as [train-clean-100, train-clean-360, train-other-500]; null uses all."""

    train_batch_size: int = 24
    """Utterances per micro-batch (DistilHuBERT)."""

    max_batch_seconds: float | None = None
    """Limit on the seconds of audio in a micro-batch, used instead of `train_batch_size`: short utterances form larger
    batches, and all batches need about the same memory."""

    max_seconds: float = 15.6
    """Longer utterances are cropped at random to this length in seconds (DistilHuBERT)."""

    min_seconds: float = 1.0
    """Shorter utterances (in seconds) are left out: batches are cropped, never padded (see `data/batches.py`)."""

    crop_lengths: int | None = None
    """Number of different lengths of batches: equal steps up to `max_seconds`. A batch is cut to the longest of these
    lengths that its shortest utterance fills, so that compiled steps (`runner.compile`) have kernels for each length.
    The rest of an utterance is not used in this epoch: half a step on average, 0.5 s with 16 lengths up to 15.6 s,
    which is 4 % of LibriSpeech's mean length of 12.3 s. Crops begin at random places, so that other epochs use it.
    null: batches are as long as their shortest utterance, and compiled kernels are for all lengths."""

    held_out: int = field(default=32, metadata={"before": 0})
    """Number of utterances, evenly spread over the corpus, that are not trained on (at most one in twenty). At every
    checkpoint, the loss of the model as it would be exported is computed on them."""

    num_workers: int | None = None
    """Processes that read audio ahead; 0 reads in the training process. null: cores of the machine minus one, shared by
    the training processes on it, at most 8."""

    def workers(self) -> int:
        """`num_workers`, or the default for this machine."""
        if self.num_workers is not None:
            return self.num_workers
        cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return min(MOST_WORKERS, max(0, cores - 1))

    def batch_size_in_words(self) -> str:
        """Limit on the size of a micro-batch in words, with its key."""
        if self.max_batch_seconds is not None:
            return f"`datarc.max_batch_seconds` = {self.max_batch_seconds} s of audio"
        return f"`datarc.train_batch_size` = {self.train_batch_size} utterances"

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        if self.train_batch_size < 1:
            raise UserError(f"`train_batch_size` must be at least 1, but is {self.train_batch_size}.")
        if self.crop_lengths is not None and self.crop_lengths < 1:
            raise UserError(f"`crop_lengths` must be at least 1, but is {self.crop_lengths}.")
        for name in ("held_out", "num_workers"):
            if (getattr(self, name) or 0) < 0:
                raise UserError(f"`{name}` must be at least 0, but is {getattr(self, name)}.")


@dataclass(kw_only=True)
class ExpertConfig:
    """s3prl's `pretrain_expert:` block."""

    datarc: DataConfig = field(default_factory=DataConfig)
    """The speech to train on."""


@dataclass(kw_only=True)
class RunnerConfig:
    """All of `config_runner.yaml`."""

    runner: LoopConfig = field(default_factory=LoopConfig)
    """The training loop."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Settings of the optimisers."""
    pretrain_expert: ExpertConfig = field(default_factory=ExpertConfig)
    """The speech to train on."""
