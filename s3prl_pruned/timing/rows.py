"""The rows of a benchmark: models timed on one workload, with their further costs."""

import gc
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from s3prl_pruned.sparsity.leaderboard import leaderboard_macs
from s3prl_pruned.timing.adapters import ragged
from s3prl_pruned.timing.checks import Lost
from s3prl_pruned.timing.clock import TimingResult, race
from s3prl_pruned.timing.document import machine
from s3prl_pruned.timing.environment import instruction_sets
from s3prl_pruned.timing.inputs import Workload
from s3prl_pruned.timing.memory import peak_memory, private_bytes
from s3prl_pruned.timing.runs import CannotRun, TimedCalls, TimingSetting, first_line, one_of_each_shape
from s3prl_pruned.timing.shares import shares
from s3prl_pruned.timing.timed_model import TimedModel
from s3prl_pruned.timing.work import macs_of

logger = logging.getLogger(__name__)

_CALLS_TO_RECORD = 3  # a graph is recorded in the second or third call with a shape


@dataclass(kw_only=True)
class WorkloadResult(TimingResult):
    """One model on one workload: `clock.TimingResult` and further costs."""

    workload: str
    arrangement: str
    """One of `inputs.Workload.arrangements`."""
    machine: str
    instruction_sets: list[str]
    """The processor's instruction sets."""
    threads: int
    loading: bool
    """Whether a run also reads its audio and copies it to the device."""
    precision: str
    """The precision, such as "fp16", or "fp16 autocast" with weights in fp32."""
    weights: str
    """The weights' origin, such as "random, seed 0"."""
    source: str | None
    """The paper and the file that describe the structure."""
    printed_millions: float | None
    """Millions of parameters, as a published model's authors print them."""
    tf32: bool
    macs: int | None
    """MACs of one run, padding included; None if the shape is unknown."""
    leaderboard_macs: int | None
    """MACs by the rule of SUPERB's leaderboard (`sparsity/leaderboard.py`)."""
    peak_bytes: int | None
    """Peak bytes of live tensors, parameters included, on the largest batch; None in a runtime other than torch."""
    reserved_bytes: int | None
    """Bytes that torch reserved on a CUDA device for the largest batch."""
    audio_s: float
    """Seconds of audio in one run, without padding."""
    real_time_factor: float
    """`seconds / audio_s`."""
    audio_per_second: float
    """`audio_s / seconds`."""
    shares: dict[str, float | None] | None
    """Shares of the time by part, on the largest batch (`shares.shares`); None if compiled or not run by torch."""


def measure(
    models: list[TimedModel],
    workload: Workload,
    setting: TimingSetting,
    *,
    tf32: bool = False,
    loading: bool = False,
) -> tuple[list[WorkloadResult], list[Lost]]:
    """Time all models interleaved on one workload, in all its arrangements, and add their further costs.

    A model that cannot pad is left out of arrangements with padding, with a warning. Models that cannot run are in the
    second result; if the baseline cannot run, all models are.
    """
    baseline = f"{setting.baseline} [{next(iter(workload.arrangements))}]"
    entries = _entries(models, workload)
    for model, arrangement in entries.values():
        record(model, workload.arrangements[arrangement])
    load = workload.load if loading else None
    lost: list[Lost] = []
    results: list[WorkloadResult] = []
    timed: list[TimingResult] = []
    while baseline in entries and not timed:
        calls = [
            TimedCalls(name=key, model=model.encode, batches=workload.arrangements[arrangement], load=load)
            for key, (model, arrangement) in entries.items()
        ]
        try:
            timed = race(calls, replace(setting, baseline=baseline))
        except CannotRun as error:
            lost.append(Lost(name=entries.pop(error.name)[0].label, workload=workload.title, reason=error.reason))
            _forget()
    if not timed:
        reason = f"the baseline cannot run: {lost[-1].reason}" if lost else "the baseline takes no padded batches"
        lost += [Lost(name=model.label, workload=workload.title, reason=reason) for model, _ in entries.values()]
    for result, (model, arrangement) in zip(timed, entries.values() if timed else (), strict=True):
        try:
            results.append(_result(result, model, workload, arrangement, setting, tf32=tf32, loading=loading))
        except Exception as error:  # such as out of memory while memory is measured
            lost.append(Lost(name=model.label, workload=workload.title, reason=first_line(error)))
            _forget()
    return results, lost


def _entries(models: list[TimedModel], workload: Workload) -> dict[str, tuple[TimedModel, str]]:
    """Models and arrangements, by a unique name for each pair."""
    entries = {}
    for arrangement, batches in workload.arrangements.items():
        for model in models:
            if model.pads or not any(map(ragged, batches)):
                entries[f"{model.label} [{arrangement}]"] = (model, arrangement)
            else:
                logger.warning("%s: %s takes no padded batches and is left out.", workload.title, model.label)
    return entries


def _forget() -> None:
    """Free the GPU memory that a failed model left."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _result(
    result: TimingResult,
    model: TimedModel,
    workload: Workload,
    arrangement: str,
    setting: TimingSetting,
    *,
    tf32: bool,
    loading: bool,
) -> WorkloadResult:
    """A row: the clock's result, and the model's further costs."""
    batches, module = workload.arrangements[arrangement], model.module
    largest = max(batches, key=lambda batch: len(batch) * max(map(len, batch)))
    memory = module and peak_memory(module, model.encode, largest, graph_bytes=model.graph_bytes)
    more = {"name": model.label, "params": model.params}
    return WorkloadResult(
        **{**vars(result), **more},
        workload=workload.title,
        arrangement=arrangement,
        machine=machine(setting.device),
        instruction_sets=instruction_sets(),
        threads=setting.threads,
        loading=loading,
        precision=model.precision + " autocast" * model.autocast,
        weights=model.weights,
        source=model.source,
        printed_millions=model.printed_millions,
        tf32=tf32,
        macs=macs_of(model.config, model.spec, batches) if model.config and model.spec else None,
        leaderboard_macs=leaderboard_macs(model.config, model.spec) if model.config and model.spec else None,
        peak_bytes=memory.live if memory else None,
        reserved_bytes=memory.reserved if memory else None,
        audio_s=workload.audio_s,
        real_time_factor=result.seconds / workload.audio_s,
        audio_per_second=workload.audio_s / result.seconds,
        # hooks would break up a compiled graph
        shares=None if model.compiled or module is None else shares(module, model.encode, largest),
    )


def record(model: TimedModel, batches: Sequence[list[Tensor]]) -> None:
    """Make a compiled model build its kernels and graphs before timing, and store how many bytes its graphs hold."""
    if not model.compiled:
        return
    device = batches[0][0].device
    before = private_bytes(device)
    with torch.inference_mode(), suppress(Exception):  # errors are reported by the timing or the check
        for batch in one_of_each_shape(batches):
            for _ in range(_CALLS_TO_RECORD):
                model.encode(batch)
    model.graph_bytes += private_bytes(device) - before
