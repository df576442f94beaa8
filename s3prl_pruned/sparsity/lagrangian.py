"""The Lagrangian that drives the expected reduction to its target (Wang et al. 2023, eq. 5; Wang et al. 2020)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from s3prl_pruned.config import UserError
from s3prl_pruned.sparsity.config import CnnTarget, Target, renewed
from s3prl_pruned.sparsity.quantities import INERT


@dataclass(kw_only=True)
class SparsityConfig:
    """Targets of pruning, and their schedule."""

    target: Target = field(default_factory=lambda: Target(share=0.8))
    """The target of pruning. `--target params=0.8`, `macs=0.7` or `speedup=2.5` sets it."""

    also: tuple[Target, ...] = ()
    """Further targets, of `params`, `macs` or `memory`: each is to be reached at least. Of all targets, the one that is
    furthest from its share is followed, so that one is met and the others are passed. For hard concrete gates."""

    cnn_target: CnnTarget | None = None
    """A separate target for the CNN, with multipliers of its own. Needs gates of the kind `conv`."""

    warmup_fraction: float = 0.07
    """Share of the steps over which the target rises linearly from 0 (paper, section 4.2)."""

    settle_fraction: float = field(default=0.2, metadata={"before": 0.0})
    """Share of the steps, at the end, in which masks are no longer drawn: they are the exported ones, and the weights
    adapt to them (ours; DPHuBERT does this in a second run). For hard concrete gates."""

    smallest_scale: float = field(default=INERT, metadata={"before": 0.0})
    """Units that their masks scale by less than this are not exported: they would count in full and contribute almost
    nothing (`export/inert.py`). For hard concrete gates."""

    match_target: bool = True
    """If rounding leaves the exported model more than `tolerance` off the target, shift all dimension gates by one
    common constant until it is not (channels by a constant of their own, if they have a target;
    `export.masks.final_masks`). False applies the rounding rule alone."""

    tolerance: float = field(default=0.002, metadata={"before": 0.01})
    """See `match_target`. An absolute difference of sparsities, or of the removed shares of MACs or time."""

    renew = staticmethod(renewed)

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        if not 0 <= self.warmup_fraction <= 1:
            raise UserError(f"`warmup_fraction` must be in [0, 1], but is {self.warmup_fraction}.")
        if not 0 <= self.settle_fraction <= 1 - self.warmup_fraction:
            raise UserError(
                f"`settle_fraction` must be from 0 to 1 - `warmup_fraction` ({1 - self.warmup_fraction:g}), but is "
                f"{self.settle_fraction}."
            )
        self._check_also()
        if not 0 <= self.smallest_scale < 0.5:
            raise UserError(f"`smallest_scale` must be in [0, 0.5), but is {self.smallest_scale}.")
        if not 0 < self.tolerance < 1:
            raise UserError(f"`tolerance` must be in (0, 1), but is {self.tolerance}.")

    def _check_also(self) -> None:
        """Raise UserError if the further targets do not go with the target."""
        if any(target.of == "time" for target in self.also):
            raise UserError(
                "`also` has targets of params, macs and memory, but one is of time. Make that one the `target`."
            )
        kinds = [(target.of, target.seconds if target.of == "macs" else None) for target in (self.target, *self.also)]
        if len(set(kinds)) < len(kinds):
            raise UserError(
                f"`target` and `also` must be of different quantities, but are of {[of for of, _ in kinds]}."
            )
        shares = [target.share for target in (self.target, *self.also)]
        if self.also and not all(shares):
            raise UserError(f"with `also`, every target needs a share above 0, but they are {shares}.")

    @property
    def targets(self) -> tuple[Target, ...]:
        """The target, the further ones, and that of the CNN if there is one."""
        all_but_cnn = (self.target, *self.also)
        return all_but_cnn if self.cnn_target is None else (*all_but_cnn, self.cnn_target)

    @property
    def goal(self) -> float:
        """The share to remove, of `target`."""
        return self.target.share

    @property
    def cnn_goal(self) -> float:
        """The share to remove, of `cnn_target`; 0 without one."""
        return 0.0 if self.cnn_target is None else self.cnn_target.share

    @property
    def table(self) -> str | None:
        """Path of the latency table; None without a target of time."""
        return next((target.table for target in self.targets if target.table), None)

    @property
    def aim(self) -> str:
        """All targets in words, for logs and the screen."""
        return ", ".join(target.aim for target in self.targets)

    def is_settling(self, step: int, total_steps: int) -> bool:
        """Whether optimiser step `step` (1-based) already uses the exported masks."""
        return step > total_steps - round(self.settle_fraction * total_steps)

    def target_at(self, step: int, total_steps: int, goal: float | None = None) -> float:
        """The target at an optimiser step, in the unit of `goal`: it rises linearly.

        Args:
            step: 1-based.
            total_steps: length of the run in optimiser steps.
            goal: final value, such as that of the CNN; None for `target`.
        """
        warmup = self.warmup_fraction * total_steps
        return (self.goal if goal is None else goal) * min(1.0, step / warmup if warmup else 1.0)


class Lagrangian(nn.Module):
    """`lambda1 (p_hat - p) + lambda2 (p_hat - p)^2`; the multipliers start at 0 and are *maximised*.

    Args:
        cnn: whether the CNN has a target of its own; its multipliers are in `self.cnn`.
    """

    def __init__(self, *, cnn: bool = False):
        super().__init__()
        self.cnn = Lagrangian() if cnn else None
        self.lambda1 = nn.Parameter(torch.zeros(()))
        self.lambda2 = nn.Parameter(torch.zeros(()))

    def forward(self, expected: Tensor, target: float) -> Tensor:
        """The penalty, a scalar; zero once the target is met.

        Args:
            expected: expected share that is removed, such as the expected sparsity.
            target: target at this step, `SparsityConfig.target_at`.
        """
        gap = expected - target
        return self.lambda1 * gap + self.lambda2 * gap.square()
