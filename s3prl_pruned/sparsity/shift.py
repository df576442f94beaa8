"""Gates that meet their target at every step: one constant is added to every log_alpha (ours).

It takes the place of the Lagrangian's multipliers (Wang et al. 2023, eq. 5). These learn more slowly than a short run
needs, and go on growing while the gates cannot follow yet, so that a low target is overshot (LOG.md).
"""

from dataclasses import dataclass

import torch

from s3prl_pruned.gates.attach import GateSet
from s3prl_pruned.gates.hard_concrete import keep_probability
from s3prl_pruned.models.masks import Masks
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.targets import Measure

_ITERATIONS = 6
"""Newton's iterations. Their number is fixed, so that the CPU never waits for a value from a GPU."""
_LONGEST = 1.0
"""Bound on one iteration, where almost no gate moves the expected share. A gate's way is 14 (`max_log_alpha`)."""


@dataclass(frozen=True)
class _Moved:
    """The `Counted` units of gates whose log_alpha were moved."""

    spec: CompactSpec
    probabilities: Masks

    def keep_probabilities(self) -> Masks:
        return self.probabilities


def shift_to_target(gates: GateSet, measure: Measure, target: float, *, channels: bool | None = None) -> None:
    """Add one constant to log_alpha, within its limits, such that the expected share is the target (Newton's method).

    Args:
        gates: changed in place.
        measure: what the target is of.
        target: the expected share to reach, in [0, 1). If it is further away than a few units of log_alpha, or out of
            reach, the gates come nearer to it.
        channels: whether gates of the CNN's channels are shifted: True for these alone, False for all others, None for
            all.
    """
    moves = torch.cat(
        [
            torch.full((size,), float(channels is None or channels == (name == "z_conv")))
            for (_, name), size in gates.table.sizes.items()
        ]
    ).to(gates.log_alpha.device)
    start, limit = gates.log_alpha.detach().clone(), gates.config.max_log_alpha
    constant = torch.zeros((), device=start.device)
    with torch.enable_grad():
        for _ in range(_ITERATIONS):
            shift = constant.requires_grad_()
            log_alpha = (start + shift * moves).clamp(-limit, limit)
            expected = measure.expected_fulfilled(_Moved(gates.spec, Masks(gates.table, keep_probability(log_alpha))))
            (slope,) = torch.autograd.grad(expected, shift)
            step = (expected - target) / slope.clamp(max=-1e-12)
            constant = (shift - step.clamp(-_LONGEST, _LONGEST)).detach()
    with torch.no_grad():
        gates.log_alpha.copy_((start + constant * moves).clamp(-limit, limit))
