"""Between the CPU and a device, without either waiting for the other."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the CPU on another device; the program goes on while it is copied. One that is there already, itself.

    Args:
        tensor: copied to CUDA through page-locked memory, in which a loader may have put it already.
        device: torch's.
    """
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """A tensor on its way to the CPU: the device is waited for when the copy is asked for, and no sooner.

    Args:
        tensor: as it is when the device gets here; on a CPU it must not be changed in place afterwards.
    """

    def __init__(self, tensor: Tensor):
        self._copy = tensor.detach().to("cpu", non_blocking=tensor.is_cuda)
        self._copied: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(tensor.device))

    def get(self) -> Tensor:
        """The copy."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._copy
