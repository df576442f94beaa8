"""The records of optimiser steps that a GPU may not have taken yet: on their way to the CPU, read a few steps later."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from s3prl_pruned import distributed
from s3prl_pruned.transfers import HostCopy

STEPS_BEHIND = 2
"""On a GPU a step's records are read when the second one after it has been given out: the GPU has work meanwhile."""


def precise(value: Tensor | float) -> Tensor:
    """In fp64, where the device has it: terms of a loss may nearly cancel out."""
    tensor = torch.as_tensor(value)
    return tensor if tensor.device.type == "mps" else tensor.double()


def sum_over_processes(records: dict[str, float | Tensor], device: torch.device) -> None:
    """Turn what each process added up over its own micro-batches into the global batch's."""
    if distributed.world_size() == 1:
        return
    names = sorted(records)
    numbers = [torch.as_tensor(records[name], device=device) for name in names]
    summed = distributed.all_reduce_sum(precise(torch.stack(numbers)))
    records.update(zip(names, summed.unbind(), strict=True))


def is_finite(*terms: Tensor | float) -> Tensor:
    """Whether all of some scalars are finite, a scalar bool; they are on one device."""
    return torch.stack([term for term in terms if isinstance(term, Tensor)]).isfinite().all()


@dataclass
class StepRecords:
    """What an optimiser step gave.

    Attributes:
        step: its number.
        known: what needed no device.
        names: of what is coming.
        coming: (number of names,).
    """

    step: int
    known: dict[str, float]
    names: list[str]
    coming: HostCopy

    @classmethod
    def sent(cls, step: int, records: Mapping[str, float | Tensor]) -> "StepRecords":
        """Those of a step that has been given out: scalars of the device, all in one copy, and numbers."""
        tensors = {name: value.detach() for name, value in records.items() if isinstance(value, Tensor)}
        known = {name: value for name, value in records.items() if not isinstance(value, Tensor)}
        return cls(step, known, list(tensors), HostCopy(torch.stack(list(tensors.values()))))

    def read(self) -> dict[str, float]:
        """All by name; waits for the device where it is not there yet."""
        return {**self.known, **dict(zip(self.names, self.coming.get().tolist(), strict=True))}
