"""One process or many: the few collective operations that training needs, no-ops on one process."""

from __future__ import annotations

import torch
import torch.distributed as dist


def rank() -> int:
    """This process's number, 0 to ``world_size() - 1``."""
    return dist.get_rank() if _many() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _many() else 1


def is_main() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return rank() == 0


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of ``tensor`` over all processes, the same on each. The argument keeps its values.

    No gradient passes through. On one process this is ``tensor`` itself.
    """
    if not _many():
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total


def all_reduce_mean(tensor: torch.Tensor) -> torch.Tensor:
    """The mean of a floating-point ``tensor`` over all processes, as ``all_reduce_sum``."""
    return all_reduce_sum(tensor) / world_size() if _many() else tensor


def _many() -> bool:
    return dist.is_available() and dist.is_initialized()
