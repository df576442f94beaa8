"""The Lagrangian that holds what is expected to go at its target: weights, MACs or time (Wang et al. 2023, eq. 5; Wang et al. 2020)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s3prl_pruned.config import UserError


@dataclass(kw_only=True)
class SparsityConfig:
    """How much is pruned, and how fast."""

    target_sparsity: float = 0.8
    """Share of the prunable weights that goes, in [0, 1) (`sparsity.counts.sparsity`). `--target params=0.8` sets it."""

    target_macs: float | None = None
    """In place of `target_sparsity`: share of the dense model's multiply-accumulates that goes, in [0, 1). `--target
    macs=0.7` sets it."""

    utterance_seconds: float = 5.0
    """Length of the utterance whose MACs `target_macs` and `target_cnn` mean (attention's grow with its square)."""

    target_speedup: float | None = None
    """In place of `target_sparsity`: how many times as fast as the dense model, at least 1, by the times in
    `latency_table` (and so for its utterance, on its device). `--target speedup=2.5` sets it."""

    latency_table: str | None = None
    """JSON that `tools/timing.py --latency-table` wrote on the device; `--latency-table` sets it."""

    target_cnn: float | None = None
    """Beside the target: share of the CNN's time by `latency_table` that goes (without a table, of its MACs), in [0, 1), held
    by multipliers of its own. Needs gates of the kind `conv`. Among the weights the CNN is too cheap to be pruned much, among
    the MACs too dear; and its first layer takes time by its activations rather than its MACs."""

    warmup_fraction: float = 0.07
    """Share of the steps over which the target rises linearly from 0 (paper, section 4.2)."""

    match_target: bool = True
    """Where rounding leaves the exported model more than `tolerance` off the target, shift the dimension gates by one
    common constant (the channels', where `target_cnn` is given, by their own) until it is not (`export.masks.final_masks`).
    False gives the bare rounding rule."""

    tolerance: float = 0.01
    """See `match_target`; an absolute difference of sparsities, or of the share of MACs or time that goes."""

    def validate(self) -> None:
        if not 0 <= self.target_sparsity < 1:
            raise UserError(f"`target_sparsity` must be in [0, 1), but is {self.target_sparsity}.")
        if self.target_macs is not None and not 0 <= self.target_macs < 1:
            raise UserError(f"`target_macs` must be in [0, 1), but is {self.target_macs}.")
        if self.target_speedup is not None and self.target_speedup < 1:
            raise UserError(f"`target_speedup` must be at least 1, but is {self.target_speedup}.")
        if self.target_cnn is not None and not 0 <= self.target_cnn < 1:
            raise UserError(f"`target_cnn` must be in [0, 1), but is {self.target_cnn}.")
        if self.target_macs is not None and self.target_speedup is not None:
            raise UserError("`target_macs` and `target_speedup` exclude one another. Leave one null.")
        if self.target_speedup is not None and self.latency_table is None:
            raise UserError(
                "`target_speedup` needs a `latency_table`, but it is null. Measure one on the device (tools/timing.py --models "
                "ours:<shape> --latency-table FILE) and give it: --latency-table FILE."
            )
        if not 0 < self.utterance_seconds <= 3600:
            raise UserError(f"`utterance_seconds` must be in (0, 3600], but is {self.utterance_seconds}.")
        if not 0 <= self.warmup_fraction <= 1:
            raise UserError(f"`warmup_fraction` must be in [0, 1], but is {self.warmup_fraction}.")
        if not 0 < self.tolerance < 1:
            raise UserError(f"`tolerance` must be in (0, 1), but is {self.tolerance}.")

    @property
    def goal(self) -> float:
        """The target as a share of the dense model that goes, in [0, 1): of its prunable weights, its MACs, or its time
        (a speed-up s saves 1 - 1/s of it)."""
        if self.target_speedup is not None:
            return 1 - 1 / self.target_speedup
        return self.target_sparsity if self.target_macs is None else self.target_macs

    def target_at(self, step: int, total_steps: int, goal: float | None = None) -> float:
        """Target of optimiser step `step` (1-based), as `goal`: it rises linearly.

        Args:
            goal: another one that rises with it, such as `target_cnn`.
        """
        warmup = self.warmup_fraction * total_steps
        return (self.goal if goal is None else goal) * min(1.0, step / warmup if warmup else 1.0)


class Lagrangian(nn.Module):
    """`lambda1 (p_hat - p) + lambda2 (p_hat - p)^2`; the multipliers start at 0 and are *maximised*.

    Args:
        cnn: whether the CNN has a target of its own, and `self.cnn` its multipliers.
    """

    def __init__(self, *, cnn: bool = False):
        super().__init__()
        self.cnn = Lagrangian() if cnn else None
        self.lambda1 = nn.Parameter(torch.zeros(()))
        self.lambda2 = nn.Parameter(torch.zeros(()))

    def forward(self, expected: Tensor, target: float) -> Tensor:
        """The penalty, a scalar; zero once the target is met.

        Args:
            expected: share that is expected to go, such as the expected sparsity.
            target: of the step, `SparsityConfig.target_at`.
        """
        gap = expected - target
        return self.lambda1 * gap + self.lambda2 * gap.square()
