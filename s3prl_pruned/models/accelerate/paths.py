"""When the fast paths run, which form of them, and what they keep of a module's weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from s3prl_pruned.models.components import exporting


@dataclass(frozen=True, kw_only=True)
class Path:
    """How an encoder computes in inference; chosen by device and length, never timed at run time."""

    max_frames: int | None
    """Up to this many frames (20 ms) per utterance; None for any number."""
    cnn_frames: int
    """Frames that the CNN makes at a time: small enough for the cache, large enough for matrix products."""
    block: int
    """Size of the positional convolution's Fourier transforms, frames."""
    queries: int
    """Queries that attend at a time: their scores, not T x T, are in memory."""


# `python benchmarks/paths.py` says what is fastest at which length (LOG.md has the runs). A device without an entry
# takes the reference path: on CUDA nothing has been measured yet.
PATHS: dict[str, tuple[Path, ...]] = {
    "cpu": (
        Path(max_frames=64, cnn_frames=132, block=128, queries=256),
        Path(max_frames=None, cnn_frames=132, block=320, queries=256),
    ),
}


def path_for(module: nn.Module, x: Tensor, num_frames: int) -> Path | None:
    """The path that `module` takes for an input; None for the reference.

    The fast paths serve inference: in evaluation mode, without gradients, in fp32 or fp64, run as written (neither
    compiled nor traced). Training never takes them; its teacher is not accelerated at all, so that no loss depends on
    which path a pass takes.

    Args:
        module: whose forward asks.
        x: its input.
        num_frames: T of the utterances, padding included.
    """
    if module.training or torch.is_grad_enabled() or x.device.type not in PATHS:
        return None
    if x.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled(x.device.type):
        return None
    if exporting() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    return next(path for path in PATHS[x.device.type] if path.max_frames is None or num_frames <= path.max_frames)


class Derived:
    """Something computed from weights, kept until they change (or move, or are loaded anew).

    What they hold is looked at each time, through a matrix-vector product: versions and addresses miss what is written
    through `.data`, as s3prl's optimisers and moving averages write. Copies and pickles start empty.
    """

    def __init__(self) -> None:
        self._kept: dict[Any, tuple[list[int], Sequence[Tensor], list[Tensor], Any]] = {}

    def get(self, key: Any, weights: Sequence[Tensor], make: Callable[[], Any]) -> Any:
        """What `make()` gives, from memory where the `weights` are as they were then.

        Args:
            key: which of several things made of these weights.
            weights: what it is made of.
            make: makes it.
        """
        # The tensors themselves are kept too: the identity of one that is gone may be another's tomorrow.
        identity, held = [id(weight) for weight in weights], [_digest(weight.detach()) for weight in weights]
        kept = self._kept.get(key)
        if kept is None or kept[0] != identity or not all(map(_same, kept[2], held)):
            kept = self._kept[key] = (identity, weights, held, make())
        return kept[3]

    def __deepcopy__(self, memo: dict) -> "Derived":
        return Derived()

    def __reduce__(self) -> tuple[type["Derived"], tuple[()]]:
        return Derived, ()


def _digest(weight: Tensor) -> Tensor:
    """Each of the first dimension's parts times a fixed random vector: (N, ...) -> (N,).

    The weights are read once, at the speed of memory (2.5 ms for the 9 M of WavLM Base that are looked at). Exchanged
    elements and rows are seen, which a sum would miss; a change below the rounding of a row's sum is not, nor would it
    be in what is computed with the row.
    """
    rows = weight.reshape(len(weight), -1)
    return rows @ _random_vector(rows.shape[1], weight.dtype, weight.device)


@lru_cache(maxsize=64)
def _random_vector(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size,), from 0.5 to 1.5: no element counts for nothing."""
    return (0.5 + torch.rand(size, generator=torch.Generator().manual_seed(size))).to(device, dtype)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
