"""Copies between the CPU and a device, without either waiting for the other."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy a CPU tensor to a device without waiting for the copy; a tensor already there is returned as it is.

    Args:
        tensor: copied to CUDA through pinned memory, where a data loader may have put it already.
        device: the target.
    """
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """A copy of a tensor to the CPU in the background: only `get` waits for the device.

    Args:
        tensor: its values when the device reaches this point are copied. On a CPU, do not change it in place later.
    """

    def __init__(self, tensor: Tensor):
        self._copy = tensor.detach().to("cpu", non_blocking=tensor.is_cuda)
        self._copied: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(tensor.device))

    def get(self) -> Tensor:
        """Wait for the copy and return it."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._copy
