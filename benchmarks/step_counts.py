"""How many kernels, copies and waits one step makes on a GPU; elsewhere, how many operators."""

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
"""Operators whose result the program waits for."""


class Operators(TorchDispatchMode):
    """Counts aten's operators, those of the backward pass among them.

    Attributes:
        counts: by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.counts[func.overloadpacket._qualified_op_name] += 1
        return func(*args, **(kwargs or {}))


def counted(step: Callable, batch: Any, device: str) -> dict[str, float]:
    """What one more step makes.

    Args:
        step: gives a step out; what it returns waits for it.
        batch: its argument.
        device: torch's.

    Returns:
        On CUDA `launches`, `waits`, `copies` and `busy_ms` (all kernels and copies of the device together), else
        `operators` and `reads` (`READS`, of tensors that a program holds on the CPU anyway too). The records, which are
        read two steps later, are not waited for here.
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
        "waits": number(*WAITS),  # the whole device is waited for here alone
        "copies": number("cudaMemcpy"),
        "busy_ms": round(sum(event.self_device_time_total for event in events if _of_device(event)) / 1e3, 1),
    }


def _of_device(event: Any) -> bool:
    """Whether it is a kernel or copy: an operator's entry repeats the time of its kernels."""
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation
