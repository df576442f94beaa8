"""Counts kernels, copies and waits of one step on a GPU; elsewhere, operators."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")
READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero")
"""Operators for whose result the program waits."""


class Operators(TorchDispatchMode):
    """Counts aten's operators, including those of the backward pass.

    Attributes:
        counts: counts by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.counts[func.overloadpacket._qualified_op_name] += 1
        return func(*args, **(kwargs or {}))


def counted(step: Callable, batch: Any, device: str) -> dict[str, float]:
    """Count the operations of one more step.

    Args:
        step: launches a step; returns a function that waits for it.
        batch: the step's argument.
        device: torch device.

    Returns:
        On CUDA `launches`, `waits`, `copies` and `busy_ms` (all kernels and copies on the device together), else
        `operators` and `reads` (`READS`, including those of tensors that are on the CPU anyway). Waiting for the
        records, which are read two steps later, is not included.
    """
    if not device.startswith("cuda"):
        with Operators() as operators:
            read = step(batch)
        read()
        return {
            "operators": sum(operators.counts.values()),
            "reads": sum(operators.counts[name] for name in READS),
        }
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        read = step(batch)
        torch.cuda.synchronize(device)
    read()
    events = profiled.key_averages()

    def number(*names: str) -> int:
        return sum(event.count for event in events if event.key.startswith(names))

    return {
        "launches": number(*LAUNCHES),
        "waits": number(*WAITS),  # only here the program waits for the whole device
        "copies": number("cudaMemcpy"),
        "busy_ms": round(sum(event.self_device_time_total for event in events if _of_device(event)) / 1e3, 1),
    }


def _of_device(event: Any) -> bool:
    """Whether an event is a kernel or copy: an operator's event repeats the time of its kernels."""
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation
