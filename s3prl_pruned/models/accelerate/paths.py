"""When the fast paths run, in which form, and what they cache of a module's weights."""

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
    """Frames that the CNN computes at a time: on a CPU, few enough for the cache and enough for efficient matrix
    products; on a GPU, only used where a whole utterance would take too much memory."""
    queries: int = 0
    """On a CPU: queries that attend at a time, so that only their scores are in memory, not T x T."""


# `python benchmarks/paths.py` measures what is fastest at which length (LOG.md has the runs), by type of device and
# precision. Those without an entry use the reference path.
_GPU_HALF = (
    Path(max_frames=1500, positions="unfold", cnn_frames=3264),
    Path(max_frames=None, positions="fft", cnn_frames=3264),
)
_CPU = (
    Path(max_frames=64, cnn_frames=132, block=128, queries=256),
    Path(max_frames=None, cnn_frames=132, block=320, queries=256),
)
_CPU_HALF = (  # bf16 products are 2 to 4 times as fast with AVX512-BF16 or AMX; torch has none in fp16
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
        module: the module whose forward calls this.
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
    """A cache of values computed from weights, valid until these change (or move, or are loaded again).

    Each access checks the weights' values through a matrix-vector product: versions and addresses miss writes through
    `.data`, as by s3prl's optimisers and moving averages. Copies and pickles start empty. On a GPU the check would have
    to wait for the device, so nothing is cached there: computing the values takes microseconds.
    """

    def __init__(self) -> None:
        self._kept: dict[Any, tuple[list[int], Sequence[Tensor], list[Tensor], Any]] = {}

    def get(self, key: Any, weights: Sequence[Tensor], make: Callable[[], Any]) -> Any:
        """The result of `make()`, from the cache if the `weights` have not changed since.

        Args:
            key: names one of several values computed from these weights.
            weights: the weights that the value depends on.
            make: computes the value.
        """
        if weights[0].is_cuda:
            return make()
        # The tensors themselves are kept too, since the id of a deleted one may be reused.
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
    """Each row, along the first dimension, times a fixed random vector: (N, ...) -> (N,).

    The weights are read once, at the speed of memory (2.5 ms for the 9 M of WavLM Base that are checked). Exchanged
    elements and rows are detected, which a sum would miss; a change below the rounding of a row's sum is not, but would
    not show in results of the row either. In half precision, whose sums round away most changes, the bytes are
    multiplied as integers: exact, (N, 1).
    """
    rows = weight.reshape(len(weight), -1)
    if weight.dtype.itemsize == 2:
        return torch._int_mm(rows.contiguous().view(torch.int8), _random_bytes(2 * rows.shape[1]))
    return rows @ _random_vector(rows.shape[1], weight.dtype, weight.device)


@lru_cache(maxsize=64)
def _random_vector(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size,), from 0.5 to 1.5, so that every element counts."""
    return (0.5 + torch.rand(size, generator=torch.Generator().manual_seed(size))).to(device, dtype)


@lru_cache(maxsize=64)
def _random_bytes(size: int) -> Tensor:
    """(size, 1) int8, odd, so that every byte counts."""
    return 2 * torch.randint(-64, 64, (size, 1), generator=torch.Generator().manual_seed(size), dtype=torch.int8) + 1


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
