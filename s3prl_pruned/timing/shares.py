"""A model's time by part: CNN, positional convolution, attention, feed-forward, and the rest."""

import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from s3prl_pruned.timing.runs import synchronize

# part -> its first and last modules in our, s3prl's, transformers' and torchaudio's models
_PARTS = (
    ("cnn", r"(.*\.)?feature_extractor", None),
    ("positional_convolution", r"(.*\.)?(positional_convolution|pos_conv|pos_conv_embed)", None),
    ("attention", r"(.*\.)?layers\.\d+\.(attention|self_attn)", None),
    ("feed_forward", r"(.*\.)?layers\.\d+\.feed_forward", None),
    ("feed_forward", r"(.*\.)?layers\.\d+\.fc1", "fc2"),  # in s3prl the activation between the two is no module
)


def shares(
    module: nn.Module, encode: Callable[[list[Tensor]], object], batch: list[Tensor], *, repeats: int = 3
) -> dict[str, float | None]:
    """The parts' shares of one call's time, as fractions that sum to 1 with `other`; medians over repeats.

    Parts that the model does not have are 0. A part that did not run as a module (on a fused path) is None, and then
    `other` is None too.

    Args:
        module: the module whose submodules are timed.
        encode: called with the batch; calls the module.
        batch: B waveforms (S,).
        repeats: number of calls.
    """
    runs = []
    for _ in range(repeats):
        with torch.inference_mode(), _watch(module, batch[0].device) as spent:
            started = _now(batch[0].device)
            encode(batch)
            total = _now(batch[0].device) - started
        runs.append({part: None if seconds is None else seconds / total for part, seconds in spent.items()})
    found: dict[str, float | None] = {}
    for part in runs[0]:
        measured = [share for run in runs if (share := run[part]) is not None]
        found[part] = statistics.median(measured) if len(measured) == len(runs) else None
    known = [share for share in found.values() if share is not None]
    return {**found, "other": max(0.0, 1 - sum(known)) if len(known) == len(found) else None}


@contextmanager
def _watch(module: nn.Module, device: torch.device) -> Iterator[dict[str, float | None]]:
    """Measures seconds by part while the module runs inside the context."""
    seconds = {part: 0.0 for part, _, _ in _PARTS}
    spent: dict[str, float | None] = {}
    ran: set[str] = set()
    present: set[str] = set()
    handles = []
    modules = dict(module.named_modules())
    for name, first in modules.items():
        for part, pattern, last in _PARTS:
            if not re.fullmatch(pattern, name):
                continue
            begun: list[float] = []
            end = first if last is None else modules[name.rpartition(".")[0] + "." + last]

            def enter(*_: object, begun: list[float] = begun) -> None:
                begun.append(_now(device))

            def leave(*_: object, begun: list[float] = begun, part: str = part) -> None:
                seconds[part] += _now(device) - begun.pop()
                ran.add(part)

            handles += [first.register_forward_pre_hook(enter), end.register_forward_hook(leave)]
            present.add(part)
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()
        spent.update({part: None if part in present - ran else seconds[part] for part in seconds})


def _now(device: torch.device) -> float:
    synchronize(device)
    return time.perf_counter()
