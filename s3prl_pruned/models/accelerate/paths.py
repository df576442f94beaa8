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
    """How an encoder computes in inference; chosen by device, precision and length, never timed at run time."""

    max_frames: int | None
    """Up to this many frames (20 ms): of an utterance on a CPU, of the whole batch on a GPU; None for any number."""
    positions: str = "fft"
    """Form of the positional convolution, one of `positions.FORMS`."""
    block: int = 1024
    """Size of its Fourier transforms, frames."""
    cnn_frames: int
    """Frames that the CNN makes at a time: on a CPU small enough for the cache and large enough for matrix products. A
    GPU makes so many of one utterance only where all at once take too much memory."""
    queries: int = 0
    """On a CPU: queries that attend at a time. Their scores, not T x T, are in memory."""


# `python benchmarks/paths.py` says what is fastest at which length (LOG.md has the runs), by type of device and
# precision. What has no entry takes the reference path.
_GPU_HALF = (
    Path(max_frames=1500, positions="unfold", cnn_frames=3264),
    Path(max_frames=None, positions="fft", cnn_frames=3264),
)
_CPU = (
    Path(max_frames=64, cnn_frames=132, block=128, queries=256),
    Path(max_frames=None, cnn_frames=132, block=320, queries=256),
)
_CPU_HALF = (  # a processor with AVX512-BF16 or AMX multiplies it two to four times as fast; fp16 none does in torch
    Path(max_frames=64, cnn_frames=264, block=128, queries=256),
    Path(max_frames=None, cnn_frames=264, block=320, queries=256),
)
PATHS: dict[tuple[str, torch.dtype], tuple[Path, ...]] = {
    ("cpu", torch.float32): _CPU,
    ("cpu", torch.float64): _CPU,
    ("cpu", torch.bfloat16): _CPU_HALF,
    ("cuda", torch.float32): (Path(max_frames=None, positions="fft", cnn_frames=3264),),
    ("cuda", torch.bfloat16): _GPU_HALF,
    ("cuda", torch.float16): _GPU_HALF,
}


def path_for(module: nn.Module, x: Tensor, num_frames: int) -> Path | None:
    """The path that `module` takes for an input; None for the reference.

    The fast paths serve inference: in evaluation mode, without gradients, run as written (neither compiled nor traced
    nor under autocast).

    Args:
        module: whose forward asks.
        x: its input, (B, ...).
        num_frames: T of the utterances, padding included.
    """
    rows = PATHS.get((x.device.type, x.dtype))
    if rows is None or module.training or torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
        return None
    if exporting() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    frames = num_frames if x.device.type == "cpu" else num_frames * x.shape[0]
    return next(path for path in rows if path.max_frames is None or frames <= path.max_frames)


class Derived:
    """Something computed from weights, kept until they change (or move, or are loaded anew).

    What they hold is looked at each time, through a matrix-vector product: versions and addresses miss what is written
    through `.data`, as s3prl's optimisers and moving averages write. Copies and pickles start empty. On a GPU the look
    would wait for it, so that nothing is kept there: what is derived takes microseconds.
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
        if weights[0].is_cuda:
            return make()
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
    be in what is computed with the row. In half precision, whose sums round away most changes, the bytes are multiplied
    as whole numbers: exact, (N, 1).
    """
    rows = weight.reshape(len(weight), -1)
    if weight.dtype.itemsize == 2:
        return torch._int_mm(rows.contiguous().view(torch.int8), _random_bytes(2 * rows.shape[1]))
    return rows @ _random_vector(rows.shape[1], weight.dtype, weight.device)


@lru_cache(maxsize=64)
def _random_vector(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size,), from 0.5 to 1.5: no element counts for nothing."""
    return (0.5 + torch.rand(size, generator=torch.Generator().manual_seed(size))).to(device, dtype)


@lru_cache(maxsize=64)
def _random_bytes(size: int) -> Tensor:
    """(size, 1) int8, odd: no byte counts for nothing."""
    return 2 * torch.randint(-64, 64, (size, 1), generator=torch.Generator().manual_seed(size), dtype=torch.int8) + 1


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
