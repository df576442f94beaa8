"""Timed runs: models called in turn until each was timed long enough, by the device's clock."""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from s3prl_pruned.config import UserError

REPEATS = (5, 20)
"""Minimum (the paper's) and maximum of repeats where their number is not set."""
_WARM_UP_SHARE = 0.2  # of the measured time: until caches and clock frequency settle

Batch = Tensor | list[Tensor]
"""Utterances of one call: (B, S), or B waveforms (S,)."""
AnyBatch = TypeVar("AnyBatch", bound=Batch)
Model = Callable[[Any], object]
"""Takes a `Batch` in one of the two forms."""


@dataclass(kw_only=True)
class TimedCalls:
    """A model and the batches that it is called with."""

    name: str
    model: nn.Module | Model
    """Called with one batch after another, in inference mode. Modules must be in evaluation mode."""
    batches: Sequence[Batch]
    """fp32, 16 kHz, on the device. One run is one call with each batch."""
    load: Callable[[Any], Batch] | None = None
    """To time loading too: called with a batch before the model, which gets the returned batch."""


@dataclass(kw_only=True)
class TimingSetting:
    """The setting of all results in one document."""

    baseline: str
    """Name of the model that ratios are relative to."""
    device: str = "cpu"
    """Torch device."""
    threads: int = 1
    """torch's intra-op threads."""
    repeats: int | None = 5
    """Every model runs once in each repeat (the paper uses 5). None: as many repeats (within `REPEATS`), and runs of a
    model in each, as `min_seconds` needs."""
    min_seconds: float = 1.0
    """Minimum total of each model's timed runs, if `repeats` is None."""
    seed: int = 0
    """Seed of the input and of the order of models."""


class CannotRun(UserError):
    """A model fails on its input.

    Args:
        name: the model's name (`TimedCalls.name`).
        reason: the first line of its error.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: cannot run: {reason}")
        self.name, self.reason = name, reason


def check_setting(setting: TimingSetting) -> None:
    """Raise UserError for repeats, threads or seconds that are not positive."""
    if (setting.repeats is not None and setting.repeats < 1) or setting.threads < 1:
        raise UserError(f"`repeats` and `threads` must be at least 1, but are {setting.repeats} and {setting.threads}.")
    if not 0 < setting.min_seconds < math.inf:
        raise UserError(f"`min-seconds` must be positive, but is {setting.min_seconds:g}.")


def interleaved(timed: list[TimedCalls], setting: TimingSetting) -> dict[str, list[list[float]]]:
    """Seconds of each run, by name and repeat. To be called in inference mode.

    Raises:
        CannotRun: if a model fails.
    """
    device, order = torch.device(setting.device), random.Random(setting.seed)
    with on_device(device):
        quickest = {one.name: _warm_up(one, setting, device) for one in timed}
        repeats, runs = _plan(quickest, setting)
        times: dict[str, list[list[float]]] = {one.name: [] for one in timed}
        for _ in range(repeats):
            for one in order.sample(timed, len(timed)):
                times[one.name].append([_timed_run(one, device) for _ in range(runs[one.name])])
    return times


def _warm_up(one: TimedCalls, setting: TimingSetting, device: torch.device) -> float:
    """Call a model until it is warmed up, and return the seconds of its fastest run.

    Each shape of batch is warmed up separately: kernels are compiled and chosen by shape.
    """
    for batch in one_of_each_shape(one.batches):
        with _blamed(one):
            _call(one, batch)
    needed = _WARM_UP_SHARE * setting.min_seconds if setting.repeats is None else 0.0
    spent = [_timed_run(one, device)]
    while sum(spent) < needed:
        spent.append(_timed_run(one, device))
    return min(spent)


def one_of_each_shape(batches: Sequence[AnyBatch]) -> list[AnyBatch]:
    """One batch for each combination of utterances' lengths."""
    shapes = (tuple(batch.shape) if isinstance(batch, Tensor) else tuple(map(len, batch)) for batch in batches)
    return list(dict(zip(shapes, batches, strict=True)).values())


def _plan(quickest: dict[str, float], setting: TimingSetting) -> tuple[int, dict[str, int]]:
    """The number of repeats, and of each model's runs per repeat."""
    if setting.repeats is not None:
        return setting.repeats, dict.fromkeys(quickest, 1)
    fewest, most = REPEATS
    repeats = min(most, max(fewest, math.ceil(setting.min_seconds / max(quickest.values()))))
    return repeats, {name: math.ceil(setting.min_seconds / repeats / run) for name, run in quickest.items()}


def _call(one: TimedCalls, batch: Batch) -> None:
    one.model(batch if one.load is None else one.load(batch))


def _run(one: TimedCalls) -> None:
    for batch in one.batches:
        _call(one, batch)


@contextmanager
def _blamed(one: TimedCalls) -> Iterator[None]:
    """Turn any error inside into `CannotRun` of the model."""
    try:
        yield
    except Exception as error:  # libraries, compilers and drivers raise all kinds of errors
        raise CannotRun(one.name, first_line(error)) from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, shortened."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def _timed_run(one: TimedCalls, device: torch.device) -> float:
    with _blamed(one):
        return _seconds_of(one, device)


def _seconds_of(one: TimedCalls, device: torch.device) -> float:
    if device.type == "cuda":
        with on_device(device):  # an event belongs to the current device
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            synchronize(device)
            start.record(torch.cuda.current_stream(device))
            _run(one)
            end.record(torch.cuda.current_stream(device))
            end.synchronize()
            return start.elapsed_time(end) / 1000  # milliseconds
    synchronize(device)
    started = time.perf_counter()
    _run(one)
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished its work: a GPU (`cuda`, `mps`, `xpu`) runs asynchronously."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type != "cpu":
        getattr(torch, device.type).synchronize()


def on_device(device: torch.device) -> AbstractContextManager:
    """Make a CUDA device the current one, as its events, streams and some libraries' kernels require."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of torch's threads, and restore the old one afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
