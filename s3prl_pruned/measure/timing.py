"""How fast models are beside each other: interleaved runs on the same input, and ratios pair by pair.

Absolute seconds of a shared machine mean little. So every repeat runs each model once, back to back, in a rotating
order; a model's ratio is the median over repeats of the baseline's time over its own *in the same repeat*.
"""

import logging
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

import s3prl_pruned
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE

logger = logging.getLogger(__name__)

NOISY = 0.2
"""Spread of the ratio, relative to it, above which a result is called noisy."""
_WARM_UP = 2  # runs of each model before the clock counts: lazy initialisation, caches, clock frequency

Model = Callable[[Tensor], object]


@dataclass(kw_only=True)
class TimingResult:
    """One model at one length and batch size."""

    name: str
    length_s: float
    """Seconds of audio per utterance."""
    batch: int
    """Utterances per call."""
    params: int | None
    """`numel()` of all parameters; None for what is no module."""
    seconds: float
    """Median time of one call."""
    seconds_spread: float
    """Interquartile range of the times of a call, seconds."""
    ratio: float
    """Baseline's time over this model's, median over repeats of the pairs; above 1 is faster than the baseline."""
    ratio_spread: float
    """Interquartile range of the pairs' ratios."""
    noisy: bool
    """Whether `ratio_spread / ratio` is above `NOISY`: measure again on a quieter machine."""


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


def compare(
    models: dict[str, nn.Module | Model], setting: TimingSetting, *, seconds: float, batch: int = 1
) -> list[TimingResult]:
    """Time models side by side on one and the same batch of noise.

    Args:
        models: called as `model(wavs)` with wavs (batch, samples) fp32 at 16 kHz, in inference mode. Modules must be in
            evaluation mode and on the setting's device.
        setting: baseline, device, threads, repeats.
        seconds: of audio per utterance.
        batch: utterances per call.

    Returns:
        One result per model, in the order given; the baseline's ratio is 1.

    Raises:
        UserError: the baseline is not among the models, there are no repeats, or a module is in training mode.
    """
    _check(models, setting)
    generator = torch.Generator().manual_seed(setting.seed)
    wavs = torch.randn(batch, round(seconds * SAMPLE_RATE), generator=generator).to(setting.device) * 0.1
    with torch.inference_mode(), _threads(setting.threads):
        times = _interleaved(models, wavs, setting)
    return [
        _summarise(name, times[name], times[setting.baseline], params=_num_parameters(model), seconds=seconds, batch=batch)
        for name, model in models.items()
    ]


def document(setting: TimingSetting, results: list[TimingResult]) -> dict:
    """The one JSON document of a benchmark: its setting, dtype, versions and all results."""
    versions = {
        "s3prl_pruned": s3prl_pruned.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
    return {**asdict(setting), "dtype": "float32", "versions": versions, "results": [asdict(result) for result in results]}


def _check(models: dict, setting: TimingSetting) -> None:
    if setting.baseline not in models:
        raise UserError(f"`baseline` must be one of the models {list(models)}, but is {setting.baseline!r}.")
    if setting.repeats < 1 or setting.threads < 1:
        raise UserError(
            f"`repeats` and `threads` must be at least 1, but are {setting.repeats} and {setting.threads}."
        )
    training = [name for name, model in models.items() if isinstance(model, nn.Module) and model.training]
    if training:
        raise UserError(f"models must be in evaluation mode to be timed, but {training} are not. Call eval() on them.")


def _interleaved(models: dict[str, Model], wavs: Tensor, setting: TimingSetting) -> dict[str, list[float]]:
    """Seconds of each call, per model; entry i of every model was measured in repeat i."""
    names = list(models)
    for name in names * _WARM_UP:
        models[name](wavs)
    times: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(setting.repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(_seconds_of(models[name], wavs))
    return times


def _seconds_of(model: Model, wavs: Tensor) -> float:
    _synchronise(wavs.device)
    started = time.perf_counter()
    model(wavs)
    _synchronise(wavs.device)
    return time.perf_counter() - started


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _summarise(
    name: str, times: list[float], baseline: list[float], *, params: int | None, seconds: float, batch: int
) -> TimingResult:
    ratios = [theirs / ours for theirs, ours in zip(baseline, times, strict=True)]
    ratio, spread = statistics.median(ratios), _interquartile_range(ratios)
    noisy = spread > NOISY * ratio
    if noisy:
        logger.warning("%s at %g s: the machine is noisy, the ratio %.2f spreads by %.2f.", name, seconds, ratio, spread)
    return TimingResult(
        name=name,
        length_s=seconds,
        batch=batch,
        params=params,
        seconds=statistics.median(times),
        seconds_spread=_interquartile_range(times),
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
def _threads(count: int):
    """Set torch's threads and put the old number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
