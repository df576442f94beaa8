"""How fast models are beside each other: interleaved runs on the same input, and ratios pair by pair.

Absolute seconds of a shared machine mean little. So every repeat runs each model once, back to back, in a rotating
order; a model's ratio is the median over repeats of the baseline's time over its own *in the same repeat*.
"""

import hashlib
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE

logger = logging.getLogger(__name__)

NOISY = 0.2
"""Interquartile range of the pairs' ratios, relative to their median, above which a result is called noisy."""
_WARM_UP = 2  # runs of each model before the clock counts: lazy initialisation, caches, clock frequency

Batch = Tensor | list[Tensor]
"""Utterances of one call: (B, S), or B waveforms (S,)."""
Model = Callable[[Any], object]
"""Of a `Batch` in the form that it takes."""


@dataclass(kw_only=True)
class TimedCalls:
    """A model and the batches that it is called with."""

    name: str
    model: nn.Module | Model
    """Called with one batch after the other, in inference mode. Modules must be in evaluation mode."""
    batches: Sequence[Batch]
    """fp32, 16 kHz, on the device. One run is one call with each."""


@dataclass(kw_only=True)
class TimingSetting:
    """What holds for all results of one document."""

    baseline: str
    """Name of the model that ratios are against."""
    device: str = "cpu"
    """torch device."""
    threads: int = 1
    """torch's intra-operation threads."""
    repeats: int = 5
    """Runs of each model (the paper takes 5)."""
    seed: int = 0
    """Of the input."""


@dataclass(kw_only=True)
class TimingResult:
    """One model on one input."""

    name: str
    length_s: float
    """Seconds of audio per utterance, padding not counted; their mean where they differ."""
    batch: int
    """Utterances of the largest call."""
    params: int | None
    """`numel()` of all parameters; None for what is no module."""
    seconds: float
    """Median time of a run: one call, or one with each batch."""
    seconds_spread: float
    """Interquartile range of the runs' times, seconds."""
    seconds_mean: float
    """Mean time of a run (the paper's figure)."""
    ratio: float
    """Baseline's time over this model's, median over repeats of the pairs; above 1 is faster than the baseline."""
    ratio_spread: float
    """Interquartile range of the pairs' ratios."""
    noisy: bool
    """Whether `ratio_spread / ratio` is above `NOISY`: measure again on a quieter machine."""


def compare(
    models: Mapping[str, nn.Module | Model], setting: TimingSetting, *, seconds: float, batch: int = 1
) -> list[TimingResult]:
    """Time models side by side on one and the same batch of noise.

    Args:
        models: called as `model(wavs)` with wavs (batch, samples), see `TimedCalls`.
        setting: baseline, device, threads, repeats.
        seconds: of audio per utterance.
        batch: utterances per call.

    Returns:
        One result per model, in the order given; the baseline's ratio is 1.

    Raises:
        UserError: see `race`.
    """
    generator = torch.Generator().manual_seed(setting.seed)
    wavs = torch.randn(batch, round(seconds * SAMPLE_RATE), generator=generator).to(setting.device) * 0.1
    return race([TimedCalls(name=name, model=model, batches=[wavs]) for name, model in models.items()], setting)


def race(timed: list[TimedCalls], setting: TimingSetting) -> list[TimingResult]:
    """Time models side by side.

    Args:
        timed: models that are all given the same utterances; how these are batched may differ.
        setting: `baseline` is the name of one of them.

    Returns:
        One result per model, in their order; the baseline's ratio is 1.

    Raises:
        UserError: they were not given the same input, a model changed it, the baseline is not among them, there are
            no repeats, or a module is in training mode.
    """
    _check(timed, setting)
    given = same_input(timed)
    with torch.inference_mode(), torch_threads(setting.threads):
        times = interleaved(timed, setting)
    if same_input(timed) != given:
        raise UserError(
            "the input is not what it was before the runs: one of the models writes into its input. Leave it out."
        )
    return [_summarise(one, times[one.name], times[setting.baseline]) for one in timed]


def same_input(timed: list[TimedCalls]) -> str:
    """The digest that the input of all of them has.

    Raises:
        UserError: they differ.
    """
    found = {one.name: digest(one.batches) for one in timed}
    different = sorted(set(found.values()))
    if len(different) > 1:
        groups = "; ".join(f"{[name for name in found if found[name] == one]} got {one}" for one in different)
        raise UserError(
            f"models must be given the same input to be compared, but {groups} (SHA-256 of the utterances)."
        )
    return different[0]


def digest(batches: Sequence[Batch]) -> str:
    """SHA-256 (its first 16 digits) of the utterances, whichever way they are batched and ordered."""
    utterances = (wav.detach().float().cpu().contiguous().numpy() for batch in batches for wav in batch)
    hashes = sorted(hashlib.sha256(wav.tobytes()).digest() for wav in utterances)
    return hashlib.sha256(b"".join(hashes)).hexdigest()[:16]


def _check(timed: list[TimedCalls], setting: TimingSetting) -> None:
    names = [one.name for one in timed]
    if setting.baseline not in names:
        raise UserError(f"`baseline` must be one of the models {names}, but is {setting.baseline!r}.")
    if setting.repeats < 1 or setting.threads < 1:
        raise UserError(f"`repeats` and `threads` must be at least 1, but are {setting.repeats} and {setting.threads}.")
    training = [one.name for one in timed if isinstance(one.model, nn.Module) and one.model.training]
    if training:
        raise UserError(f"models must be in evaluation mode to be timed, but {training} are not. Call eval() on them.")


def interleaved(timed: list[TimedCalls], setting: TimingSetting) -> dict[str, list[float]]:
    """Seconds of each run, by name; entry i of every model was measured in repeat i. Call it in inference mode."""
    for one in timed * (_WARM_UP if len(timed[0].batches) == 1 else 1):  # many batches warm up one another
        _run(one)
    times: dict[str, list[float]] = {one.name: [] for one in timed}
    for repeat in range(setting.repeats):
        first = repeat % len(timed)
        for one in timed[first:] + timed[:first]:
            times[one.name].append(_seconds_of(one, torch.device(setting.device)))
    return times


def _run(one: TimedCalls) -> None:
    for batch in one.batches:
        one.model(batch)


def _seconds_of(one: TimedCalls, device: torch.device) -> float:
    if device.type == "cuda":  # written, but never run on a GPU so far
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        start.record()
        _run(one)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000  # it counts milliseconds
    started = time.perf_counter()
    _run(one)
    return time.perf_counter() - started


def _summarise(one: TimedCalls, times: list[float], baseline: list[float]) -> TimingResult:
    ratios = [theirs / ours for theirs, ours in zip(baseline, times, strict=True)]
    ratio, spread = statistics.median(ratios), _interquartile_range(ratios)
    lengths = [len(wav) / SAMPLE_RATE for batch in one.batches for wav in batch]
    noisy = spread > NOISY * ratio
    if noisy:
        logger.warning(
            "%s at %g s: the machine is noisy, the ratio %.2f spreads by %.2f.",
            one.name,
            statistics.mean(lengths),
            ratio,
            spread,
        )
    return TimingResult(
        name=one.name,
        length_s=statistics.mean(lengths),
        batch=max(len(batch) for batch in one.batches),
        params=_num_parameters(one.model),
        seconds=statistics.median(times),
        seconds_spread=_interquartile_range(times),
        seconds_mean=statistics.mean(times),
        ratio=ratio,
        ratio_spread=spread,
        noisy=noisy,
    )


def _interquartile_range(values: list[float]) -> float:
    if len(values) < 2:
        return 0.0
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return upper - lower


def _num_parameters(model: nn.Module | Model) -> int | None:
    return sum(p.numel() for p in model.parameters()) if isinstance(model, nn.Module) else None


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set torch's threads and put the old number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
