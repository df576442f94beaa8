"""Split long audio into windows of a fixed size, each encoded by itself, and join the results."""

import torch
import torch.nn.functional as F
from torch import Tensor

from s3prl_pruned.models.components import exporting


def cut(x: Tensor, size: int) -> Tensor:
    """(B, N, ...) -> (B x windows, size, ...), zeros (False) after the end.

    An exported graph has one window: with longer audio it fails where positions are added.
    """
    if exporting():
        return _lengthened(x, torch.sym_max(size - x.shape[1], 0))
    return _lengthened(x, -x.shape[1] % size).unflatten(1, (-1, size)).flatten(0, 1)


def join(x: Tensor, batch: int, length: int | None) -> Tensor:
    """(B x windows, size, ...) -> (B, length, ...); None for all, windows x size."""
    if not exporting():
        x = x.unflatten(0, (batch, -1)).flatten(1, 2)
    return x[:, :length]


def _lengthened(x: Tensor, missing: int) -> Tensor:
    return F.pad(x, (*[0] * (2 * (x.dim() - 2)), 0, missing))
