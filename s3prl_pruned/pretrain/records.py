"""Records of optimiser steps that a GPU may not have finished yet: copied to the CPU, and read a few steps later."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from s3prl_pruned import distributed
from s3prl_pruned.transfers import HostCopy

STEPS_BEHIND = 2
"""On a GPU, the records of a step are read after two more steps were queued, so that the GPU always has work."""


def precise(value: Tensor | float) -> Tensor:
    """Convert to fp64, if the device supports it: terms of a loss may nearly cancel."""
    tensor = torch.as_tensor(value)
    return tensor if tensor.device.type == "mps" else tensor.double()


def sum_over_processes(records: dict[str, float | Tensor], device: torch.device) -> None:
    """Turn sums over a process's own micro-batches into sums over the global batch, in place."""
    if distributed.world_size() == 1:
        return
    names = sorted(records)
    numbers = [torch.as_tensor(records[name], device=device) for name in names]
    summed = distributed.all_reduce_sum(precise(torch.stack(numbers)))
    records.update(zip(names, summed.unbind(), strict=True))


def is_finite(*terms: Tensor | float) -> Tensor:
    """Whether all scalars are finite: a scalar bool tensor. All must be on one device."""
    return torch.stack([term for term in terms if isinstance(term, Tensor)]).isfinite().all()


@dataclass
class StepRecords:
    """Records of one optimiser step.

    Attributes:
        step: its number.
        known: values that are already on the CPU.
        names: names of the values that are being copied.
        coming: these values, (number of names,).
    """

    step: int
    known: dict[str, float]
    names: list[str]
    coming: HostCopy

    @classmethod
    def sent(cls, step: int, records: Mapping[str, float | Tensor]) -> "StepRecords":
        """Records of a queued step: all scalars on the device are copied at once; numbers are kept."""
        tensors = {name: value.detach() for name, value in records.items() if isinstance(value, Tensor)}
        known = {name: value for name, value in records.items() if not isinstance(value, Tensor)}
        return cls(step, known, list(tensors), HostCopy(torch.stack(list(tensors.values()))))

    def read(self) -> dict[str, float]:
        """All values by name; waits for the device if necessary."""
        return {**self.known, **dict(zip(self.names, self.coming.get().tolist(), strict=True))}
