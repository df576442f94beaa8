"""The Lagrangian that holds the expected sparsity at its target (Wang et al. 2023, eq. 5; Wang et al. 2020)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s3prl_pruned.config import UserError


@dataclass(kw_only=True)
class SparsityConfig:
    """How much is pruned, and how fast."""

    target_sparsity: float = 0.8
    """Share of the prunable weights that goes, in [0, 1) (`sparsity.counts.sparsity`)."""

    warmup_fraction: float = 0.07
    """Share of the steps over which the target rises linearly from 0 (paper, section 4.2)."""

    match_target: bool = True
    """Where rounding leaves the exported model more than `tolerance` off the target, shift the dimension gates by one
    common constant until it is not (`export.masks.final_masks`). False gives the bare rounding rule."""

    tolerance: float = 0.01
    """See `match_target`; an absolute difference of sparsities."""

    def validate(self) -> None:
        if not 0 <= self.target_sparsity < 1:
            raise UserError(f"`target_sparsity` must be in [0, 1), but is {self.target_sparsity}.")
        if not 0 <= self.warmup_fraction <= 1:
            raise UserError(f"`warmup_fraction` must be in [0, 1], but is {self.warmup_fraction}.")
        if not 0 < self.tolerance < 1:
            raise UserError(f"`tolerance` must be in (0, 1), but is {self.tolerance}.")

    def target_at(self, step: int, total_steps: int) -> float:
        """Target sparsity of optimiser step `step` (1-based)."""
        warmup = self.warmup_fraction * total_steps
        return self.target_sparsity * min(1.0, step / warmup if warmup else 1.0)


class Lagrangian(nn.Module):
    """`lambda1 (p_hat - p) + lambda2 (p_hat - p)^2`; the multipliers start at 0 and are *maximised*."""

    def __init__(self):
        super().__init__()
        self.lambda1 = nn.Parameter(torch.zeros(()))
        self.lambda2 = nn.Parameter(torch.zeros(()))

    def forward(self, expected_sparsity: Tensor, target: float) -> Tensor:
        """The penalty, a scalar; zero in expectation once the target is met."""
        gap = expected_sparsity - target
        return self.lambda1 * gap + self.lambda2 * gap.square()
