"""The Lagrangian that holds what is expected to go at its target (Wang et al. 2023, eq. 5; Wang et al. 2020)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from s3prl_pruned.config import UserError
from s3prl_pruned.sparsity.config import CnnTarget, Target, renewed
from s3prl_pruned.sparsity.quantities import INERT


@dataclass(kw_only=True)
class SparsityConfig:
    """How much is pruned, and how fast."""

    target: Target = field(default_factory=lambda: Target(share=0.8))
    """What pruning is driven to. `--target params=0.8`, `macs=0.7` or `speedup=2.5` sets it."""

    cnn_target: CnnTarget | None = None
    """The CNN's own beside it, held by multipliers of its own. Needs gates of the kind `conv`."""

    warmup_fraction: float = 0.07
    """Share of the steps over which the target rises linearly from 0 (paper, section 4.2)."""

    settle_fraction: float = field(default=0.2, metadata={"before": 0.0})
    """Share of the steps, at the end, in which no mask is drawn any more: they are those that are exported, and the
    weights settle under them (ours; DPHuBERT does so in a second run). Of hard concrete gates."""

    smallest_scale: float = field(default=INERT, metadata={"before": 0.0})
    """A unit that its masks would scale by less than this is never exported: it computes next to nothing, and counts in
    full (`export/inert.py`). Of hard concrete gates."""

    match_target: bool = True
    """Where rounding leaves the exported model more than `tolerance` off the target, shift the dimension gates by one
    common constant (the channels', where they have a target, by their own) until it is not
    (`export.masks.final_masks`). False gives the bare rounding rule."""

    tolerance: float = field(default=0.002, metadata={"before": 0.01})
    """See `match_target`; an absolute difference of sparsities, or of the share of MACs or time that goes."""

    renew = staticmethod(renewed)

    def validate(self) -> None:
        """Raise UserError where a value is out of its range."""
        if not 0 <= self.warmup_fraction <= 1:
            raise UserError(f"`warmup_fraction` must be in [0, 1], but is {self.warmup_fraction}.")
        if not 0 <= self.settle_fraction <= 1 - self.warmup_fraction:
            raise UserError(
                f"`settle_fraction` must be from 0 to 1 - `warmup_fraction` ({1 - self.warmup_fraction:g}), but is "
                f"{self.settle_fraction}."
            )
        if not 0 <= self.smallest_scale < 0.5:
            raise UserError(f"`smallest_scale` must be in [0, 0.5), but is {self.smallest_scale}.")
        if not 0 < self.tolerance < 1:
            raise UserError(f"`tolerance` must be in (0, 1), but is {self.tolerance}.")

    @property
    def targets(self) -> tuple[Target, ...]:
        """All of them."""
        return (self.target,) if self.cnn_target is None else (self.target, self.cnn_target)

    @property
    def goal(self) -> float:
        """The target's share."""
        return self.target.share

    @property
    def cnn_goal(self) -> float:
        """The share of the CNN's target; 0 where it has none."""
        return 0.0 if self.cnn_target is None else self.cnn_target.share

    @property
    def table(self) -> str | None:
        """The latency table of the targets of time."""
        return next((target.table for target in self.targets if target.table), None)

    @property
    def aim(self) -> str:
        """All targets, in words."""
        return ", ".join(target.aim for target in self.targets)

    def is_settling(self, step: int, total_steps: int) -> bool:
        """Whether the masks of an optimiser step (1-based) are the exported ones."""
        return step > total_steps - round(self.settle_fraction * total_steps)

    def target_at(self, step: int, total_steps: int, goal: float | None = None) -> float:
        """Target of an optimiser step, as `goal`: it rises linearly.

        Args:
            step: 1-based.
            total_steps: of the run.
            goal: another one that rises with it, such as the CNN's.
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
