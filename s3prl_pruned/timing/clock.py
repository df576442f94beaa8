"""Comparing the speed of models: interleaved runs on the same input, and ratios pair by pair.

Absolute seconds on a shared machine mean little. So every repeat runs all models one after the other, in a new random
order; a model's ratio is the median over repeats of the baseline's time divided by its own *in the same repeat*.
"""

import hashlib
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.timing.runs import (
    Batch,
    Model,
    TimedCalls,
    TimingSetting,
    check_setting,
    interleaved,
    torch_threads,
)

logger = logging.getLogger(__name__)

NOISY = 0.2
"""Interquartile range of the pairs' ratios, relative to their median, above which a result is called noisy."""


@dataclass(kw_only=True)
class TimingResult:
    """The result of one model on one input."""

    name: str
    length_s: float
    """Seconds of audio per utterance without padding; the mean where lengths differ."""
    batch: int
    """Utterances in the largest call."""
    params: int | None
    """`numel()` of all parameters; None if the model is no module."""
    seconds: float
    """Median time of a run in seconds; a run is one call, or one call for each batch."""
    seconds_spread: float
    """Interquartile range of the runs' times, seconds."""
    seconds_mean: float
    """Mean time of a run in seconds (as in the paper)."""
    seconds_std: float
    """Standard deviation of the runs' times, seconds; 0 for a single run."""
    repeats: int
    runs: int
    """Number of timed runs in all repeats."""
    ratio: float
    """The baseline's time divided by this model's, median over repeats; above 1 is faster than the baseline. A repeat's
    time is the median of its runs."""
    ratio_spread: float
    """Interquartile range of the pairs' ratios."""
    noisy: bool
    """Whether `ratio_spread / ratio` is above `NOISY`: measure again on a quieter machine."""


def compare(
    models: Mapping[str, nn.Module | Model], setting: TimingSetting, *, seconds: float, batch: int = 1
) -> list[TimingResult]:
    """Time models side by side on the same batch of noise.

    Args:
        models: called as `model(wavs)` with wavs (batch, samples), see `TimedCalls`.
        setting: baseline, device, threads, repeats.
        seconds: seconds of audio per utterance.
        batch: utterances per call.

    Returns:
        One result per model, in the same order; the baseline's ratio is 1.

    Raises:
        UserError: see `race`.
    """
    generator = torch.Generator().manual_seed(setting.seed)
    wavs = torch.randn(batch, round(seconds * SAMPLE_RATE), generator=generator).to(setting.device) * 0.1
    return race([TimedCalls(name=name, model=model, batches=[wavs]) for name, model in models.items()], setting)


def race(timed: list[TimedCalls], setting: TimingSetting) -> list[TimingResult]:
    """Time models side by side.

    Args:
        timed: models with the same utterances, which may be batched differently.
        setting: `baseline` is the name of one of the models.

    Returns:
        One result per model, in their order; the baseline's ratio is 1.

    Raises:
        CannotRun: if a model fails.
        UserError: if the models' inputs differ, a model changed its input, the baseline is not among the models,
            there are no repeats, or a module is in training mode.
    """
    _check(timed, setting)
    given = same_input(timed)
    with torch.inference_mode(), torch_threads(setting.threads):
        times = interleaved(timed, setting)
    if same_input(timed) != given:
        raise UserError(
            "the input has changed during the runs: one of the models writes into its input. Leave that model out."
        )
    return [_summarise(one, times[one.name], times[setting.baseline]) for one in timed]


def same_input(timed: list[TimedCalls]) -> str:
    """The digest of all models' input.

    Raises:
        UserError: if the inputs differ.
    """
    found = {one.name: digest(one.batches) for one in timed}
    different = sorted(set(found.values()))
    if len(different) > 1:
        groups = "; ".join(f"{[name for name in found if found[name] == one]} got {one}" for one in different)
        raise UserError(f"models must get the same input to be compared, but {groups} (SHA-256 of the utterances).")
    return different[0]


def digest(batches: Sequence[Batch]) -> str:
    """SHA-256 (the first 16 digits) of the utterances, independent of batches and order."""
    utterances = (wav.detach().float().cpu().contiguous().numpy() for batch in batches for wav in batch)
    hashes = sorted(hashlib.sha256(wav.tobytes()).digest() for wav in utterances)
    return hashlib.sha256(b"".join(hashes)).hexdigest()[:16]


def _check(timed: list[TimedCalls], setting: TimingSetting) -> None:
    names = [one.name for one in timed]
    if setting.baseline not in names:
        raise UserError(f"`baseline` must be one of the models {names}, but is {setting.baseline!r}.")
    check_setting(setting)
    training = [one.name for one in timed if isinstance(one.model, nn.Module) and one.model.training]
    if training:
        raise UserError(f"models must be in evaluation mode to be timed, but {training} are not. Call eval() on them.")


def _summarise(one: TimedCalls, times: list[list[float]], baseline: list[list[float]]) -> TimingResult:
    ratios = [statistics.median(theirs) / statistics.median(ours) for theirs, ours in zip(baseline, times, strict=True)]
    ratio, spread = statistics.median(ratios), _interquartile_range(ratios)
    runs = [run for repeat in times for run in repeat]
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
        seconds=statistics.median(runs),
        seconds_spread=_interquartile_range(runs),
        seconds_mean=statistics.mean(runs),
        seconds_std=statistics.stdev(runs) if len(runs) > 1 else 0.0,
        repeats=len(times),
        runs=len(runs),
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
