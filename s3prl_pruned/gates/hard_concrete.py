"""The hard concrete distribution (Louizos et al. 2018; Wang et al. 2023, eq. 2) and its straight-through estimator.

Everything here computes in fp32, under autocast too: in fp16 `1 - 1e-6` rounds to 1 and its logit is infinite.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

BETA = 2 / 3
"""Temperature of the concrete distribution (Louizos et al. 2018; the paper leaves it open)."""
GAMMA, ZETA = -0.1, 1.1
"""The stretched interval (Wang et al. 2023, eq. 2)."""
EPSILON = 1e-6
"""Uniform noise is drawn from (EPSILON, 1 - EPSILON)."""
SOFT_VALUE_FACTOR = 0.8
"""Scale of `log_alpha` in the value of a kept mask (the "magic number" of CoFi and DPHuBERT)."""

_SHIFT = BETA * math.log(-GAMMA / ZETA)  # P(z > 0) = sigmoid(log_alpha - _SHIFT)


class _ClampStraightThrough(torch.autograd.Function):
    """Clamp to [0, 1] whose gradient is the output's, clipped to [-1, 1] (Wang et al. 2023, eq. 4)."""

    @staticmethod
    def forward(ctx: FunctionCtx, s_bar: Tensor) -> Tensor:
        """(N,) to (N,)."""
        return s_bar.clamp(0.0, 1.0)

    @staticmethod
    def backward(ctx: FunctionCtx, grad_z: Tensor) -> Tensor:
        """(N,) to (N,)."""
        return grad_z.clamp(-1.0, 1.0)


def stretched(log_alpha: Tensor, u: Tensor) -> Tensor:
    """Draw s_bar of eq. 2: the concrete variable, stretched to (GAMMA, ZETA) and not yet clamped.

    `s = sigmoid((logit(u) + log_alpha) / BETA)`: Louizos' form, for which the L0 formula is published. The
    paper prints `logit(u) / BETA + log_alpha`; see docs/method.md.

    Args:
        log_alpha: any shape, fp32.
        u: the same shape, uniform in (0, 1).

    Returns:
        s_bar, fp32, the shape of `log_alpha`.
    """
    u = u.float() * (1 - 2 * EPSILON) + EPSILON
    s = torch.sigmoid((torch.logit(u) + log_alpha.float()) / BETA)
    return s * (ZETA - GAMMA) + GAMMA


def sample(log_alpha: Tensor, u: Tensor, *, straight_through: bool) -> Tensor:
    """Draw masks: z = s_bar clamped to [0, 1], fp32, the shape of `log_alpha`.

    Args:
        log_alpha: any shape, fp32.
        u: the same shape, uniform in (0, 1).
        straight_through: gradient by eq. 4; otherwise the clamp's own, zero wherever z is exactly 0 or 1.
    """
    s_bar = stretched(log_alpha, u)
    return _ClampStraightThrough.apply(s_bar) if straight_through else s_bar.clamp(0.0, 1.0)


def keep_probability(log_alpha: Tensor) -> Tensor:
    """P(z > 0), the expected L0 norm of each mask (Louizos et al. 2018, eq. 12)."""
    return torch.sigmoid(log_alpha.float() - _SHIFT)


def soft_value(log_alpha: Tensor) -> Tensor:
    """Value of a surviving mask in evaluation and export, in (0, 1); folded into the weights."""
    return torch.sigmoid(SOFT_VALUE_FACTOR * log_alpha.float() / BETA)


def shifted_value(log_alpha: Tensor, shift: float) -> Tensor:
    """Soft value of a mask that is kept after `shift` was added to log_alpha to meet a target.

    A shift up raises the value too, since a unit that comes back by it with its learned value, near 0, would contribute
    nothing. A shift down removes units and leaves the value of the others as learned.
    """
    return soft_value(log_alpha + max(0.0, shift))


def rounded_masks(log_alpha: Tensor, shift: float = 0.0, *, at_least: int = 0) -> Tensor:
    """Deterministic masks of a group, (n,) to (n,): keep the largest, as many as expected (as in DPHuBERT).

    Args:
        log_alpha: (n,).
        shift: added to log_alpha for the expected count, and for the values as in `shifted_value`.
        at_least: smallest number of masks to keep.
    """
    num = log_alpha.numel()
    num_kept = max(at_least, num - round(num - float(keep_probability(log_alpha + shift).sum())))
    kept = log_alpha.argsort(descending=True, stable=True)[:num_kept]
    mask = torch.zeros_like(log_alpha)
    mask[kept] = shifted_value(log_alpha[kept], shift)
    return mask


class HardConcrete:
    """A group of masks with one `log_alpha` each; calling it draws them.

    Args:
        log_alpha: (N,) fp32; a parameter, or a part of one.
        straight_through: gradient through the clamp by eq. 4; otherwise the clamp's own.
    """

    def __init__(self, log_alpha: Tensor, *, straight_through: bool):
        self.log_alpha = log_alpha
        self.straight_through = straight_through

    def __call__(self, u: Tensor) -> Tensor:
        """Masks (N,) for uniform noise (N,)."""
        with torch.autocast(self.log_alpha.device.type, enabled=False):
            return sample(self.log_alpha, u, straight_through=self.straight_through)

    def keep_probability(self) -> Tensor:
        """P(z > 0), (N,)."""
        with torch.autocast(self.log_alpha.device.type, enabled=False):
            return keep_probability(self.log_alpha)

    def expected_count(self) -> Tensor:
        """Expected number of masks that are not zero, a scalar."""
        return self.keep_probability().sum()

    @torch.no_grad()
    def clamp(self, limit: float) -> None:
        """Keep |log_alpha| <= limit, where the sigmoid still has a gradient."""
        self.log_alpha.clamp_(-limit, limit)

    def __repr__(self) -> str:
        return f"HardConcrete(size={self.log_alpha.numel()}, straight_through={self.straight_through})"
