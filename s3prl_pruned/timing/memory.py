"""Memory of a model's forward pass: peak bytes of live tensors, parameters included."""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that are alive while it is active.

    A storage counts from the operation that returns it until it is freed; one that existed before (a parameter, the
    input, a cached table) counts permanently once it is used. Views share their storage and count once. Memory that
    an operation allocates and frees internally is not seen.

    Args:
        tensors: tensors that count from the start, used or not.

    Attributes:
        peak: the maximum of live bytes.
    """

    def __init__(self, tensors: Iterable[Tensor] = ()):
        super().__init__()
        self._before = self._now = self._peak = 0
        self._known: dict[int, weakref.ref] = {}
        for tensor in tensors:
            self._find(tensor)

    @property
    def peak(self) -> int:
        """The maximum of live bytes."""
        return self._before + self._peak

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            self._find(tensor)
        # In inference mode composite operations arrive here: they are decomposed, so that their results are seen.
        with self:
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            result = func(*args, **kwargs)
            for tensor in _tensors(result):
                self._made(tensor)
        return result

    def _find(self, tensor: Tensor) -> None:
        """Count a tensor that existed before."""
        size = self._track(tensor, made=False)
        self._before += size

    def _made(self, tensor: Tensor) -> None:
        self._now += self._track(tensor, made=True)
        self._peak = max(self._peak, self._now)

    def _track(self, tensor: Tensor, *, made: bool) -> int:
        """Bytes of the tensor's storage; 0 when it is counted already."""
        if tensor.layout != torch.strided:  # packed weights (oneDNN's) have no accessible storage
            owner: Tensor | torch.UntypedStorage = tensor
            key, size = id(tensor), tensor.numel() * tensor.element_size()
        else:
            owner = storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return 0

        def freed(_: object, key: int = key, size: int = size) -> None:
            del self._known[key]
            if made:
                self._now -= size

        self._known[key] = weakref.ref(owner, freed)
        return size


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@dataclass(frozen=True, kw_only=True)
class PeakMemory:
    """Peak memory of one call, the model's parameters and buffers included."""

    live: int
    """Bytes of live tensors; on CUDA also the memory that the model's graphs hold."""
    reserved: int | None
    """Bytes that torch reserved on the device for the call; None on a CPU."""


def peak_memory(
    module: nn.Module, encode: Callable[[list[Tensor]], object], batch: list[Tensor], *, graph_bytes: int = 0
) -> PeakMemory:
    """Measure the peak memory of one call.

    On a CPU by `LiveBytes`; on CUDA by the allocator's peaks minus what was allocated before the call, so that they
    are of this model alone. Replaying a graph allocates nothing: its memory was reserved when it was recorded.

    Args:
        module: the module whose parameters count.
        encode: called with the batch.
        batch: B waveforms (S,).
        graph_bytes: bytes that the model's graphs hold (`private_bytes` after recording minus before).
    """
    own, device = [*module.parameters(), *module.buffers()], batch[0].device
    if device.type != "cuda":
        with torch.inference_mode(), LiveBytes([*own, *batch]) as live:
            encode(batch)
        return PeakMemory(live=live.peak, reserved=None)
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    with torch.inference_mode():
        encode(batch)
    torch.cuda.synchronize(device)
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in [*own, *batch]}
    standing = sum(storages.values()) + graph_bytes
    return PeakMemory(
        live=standing + torch.cuda.max_memory_allocated(device) - allocated,
        reserved=standing + torch.cuda.max_memory_reserved(device) - reserved,
    )


def private_bytes(device: torch.device) -> int:
    """Bytes of a device's memory held by all CUDA graphs recorded so far; 0 on a CPU.

    Between replays their pools are reserved but not allocated: no other counter shows them.
    """
    if device.type != "cuda":
        return 0
    index = torch.cuda.current_device() if device.index is None else device.index
    segments = [segment for segment in torch.cuda.memory_snapshot() if segment["device"] == index]
    return sum(segment["total_size"] for segment in segments if tuple(segment["segment_pool_id"]) != (0, 0))
