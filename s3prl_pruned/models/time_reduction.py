"""A lower frame rate in the upper layers: neighbouring frames are averaged, and states are repeated again.

Attention and feed-forward of the upper layers then cost half as much, or less. The model still publishes a state for
each frame of the feature extractor.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from s3prl_pruned.config import UserError


@dataclass(frozen=True, kw_only=True)
class TimeReduction:
    """A lower frame rate in the upper layers."""

    after: int
    """Layers that run at the full frame rate. The input of the next one is the first to be merged."""

    factor: int = 2
    """Frames that are averaged into one. 2 makes 25 Hz of 50 Hz."""

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        if self.after < 0:
            raise UserError(f"`time_reduction.after` must be at least 0, but is {self.after}.")
        if not 2 <= self.factor <= 16:
            raise UserError(f"`time_reduction.factor` must be from 2 to 16, but is {self.factor}.")

    def check(self, num_layers: int) -> None:
        """Raise UserError if no layer would run at the lower rate."""
        self.validate()
        if self.after >= num_layers:
            raise UserError(f"`time_reduction.after` must be at most {num_layers - 1}, but is {self.after}.")


def merge_frames(x: Tensor, padding: Tensor | None, factor: int) -> tuple[Tensor, Tensor | None]:
    """Average each `factor` frames (the last ones may be fewer); padded frames do not count.

    Args:
        x: (B, T, D).
        padding: (B, T) bool, True where a frame is padding; None for none.
        factor: 2 or more.

    Returns:
        (B, ceil(T / factor), D), and their padding, True where all merged frames are padding; None for none.
    """
    kept = x.new_ones(1, x.shape[1], 1) if padding is None else (~padding)[..., None].to(x.dtype)
    if padding is not None:
        x = x.masked_fill(padding[..., None], 0.0)
    count = _grouped(kept, factor).sum(2)  # (B or 1, ceil(T / factor), 1)
    merged = _grouped(x, factor).sum(2) / count.clamp(min=1)
    return merged, None if padding is None else count[..., 0] == 0


def repeat_frames(x: Tensor, factor: int, num_frames: int) -> Tensor:
    """Each frame `factor` times: (B, ceil(T / factor), D) -> (B, T, D) for `num_frames` = T."""
    return x.repeat_interleave(factor, dim=1)[:, :num_frames]


def thin_position_bias(bias: Tensor, factor: int) -> Tensor:
    """The position bias between every `factor`-th frame, by the distances of the full frame rate.

    Args:
        bias: (H, T, T), or (H, 2T - 1) by distance.
        factor: 2 or more.

    Returns:
        The same for ceil(T / factor) frames.
    """
    if bias.dim() == 3:
        return bias[:, ::factor, ::factor]
    num_frames = (bias.shape[-1] + 1) // 2
    largest = (num_frames - 1) // factor * factor  # distance from the first merged frame to the last
    return bias[:, num_frames - 1 - largest :: factor].contiguous()


def _grouped(x: Tensor, factor: int) -> Tensor:
    """(B, T, D) -> (B, ceil(T / factor), factor, D), zeros behind the end."""
    return F.pad(x, (0, 0, 0, -x.shape[1] % factor)).unflatten(1, (-1, factor))
