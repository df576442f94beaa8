"""How much memory a model's forward pass needs: peak bytes of live tensors, its parameters included."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that live while it is on.

    A storage counts from the operation that returns it until it is freed; one that stood before (a parameter, the
    input, a cached table) counts throughout as soon as it is used. Views share their storage and count once. What an
    operation allocates and frees within itself is not seen.

    Args:
        tensors: count these from the start, whether they are used or not.

    Attributes:
        peak: the most bytes that lived at once.
    """

    def __init__(self, tensors: Iterable[Tensor] = ()):
        super().__init__()
        self._before = self._now = self._peak = 0
        self._known: dict[int, weakref.ref] = {}
        for tensor in tensors:
            self._find(tensor)

    @property
    def peak(self) -> int:
        """In bytes."""
        return self._before + self._peak

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            self._find(tensor)
        # In inference mode whole compositions arrive here: taken apart, what they make is seen.
        with self:
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            result = func(*args, **kwargs)
            for tensor in _tensors(result):
                self._made(tensor)
        return result

    def _find(self, tensor: Tensor) -> None:
        """Note a tensor that stood before."""
        size = self._track(tensor, made=False)
        self._before += size

    def _made(self, tensor: Tensor) -> None:
        self._now += self._track(tensor, made=True)
        self._peak = max(self._peak, self._now)

    def _track(self, tensor: Tensor, *, made: bool) -> int:
        """Bytes of the tensor's storage; 0 when it is counted already."""
        if tensor.layout != torch.strided:  # packed weights (oneDNN's) have no storage to ask
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


def peak_bytes(module: nn.Module, encode: Callable[[list[Tensor]], object], batch: list[Tensor]) -> int:
    """Most bytes of live tensors during one call, parameters and buffers included.

    On a CPU by `LiveBytes`; on CUDA the allocator's peak less what lived there before the call, so that it holds this
    model alone (written, but never run on a GPU so far).

    Args:
        module: whose parameters count.
        encode: called with the batch.
        batch: B waveforms (S,).
    """
    own = [*module.parameters(), *module.buffers()]
    device = batch[0].device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        with torch.inference_mode():
            encode(batch)
        torch.cuda.synchronize(device)
        storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in [*own, *batch]}
        return torch.cuda.max_memory_allocated(device) - before + sum(storages.values())
    with torch.inference_mode(), LiveBytes([*own, *batch]) as live:
        encode(batch)
    return live.peak
