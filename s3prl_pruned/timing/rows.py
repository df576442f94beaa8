"""The rows of a benchmark: models timed on one workload, and what else each costs."""

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
    """One model on one workload: `clock.TimingResult`, and what else it costs."""

    workload: str
    arrangement: str
    """One of `inputs.Workload.arrangements`."""
    machine: str
    instruction_sets: list[str]
    """Of the processor."""
    threads: int
    loading: bool
    """Whether a run also reads its audio and copies it to the device."""
    precision: str
    """Such as "fp16", or "fp16 autocast" where weights are in fp32."""
    weights: str
    """Where they come from, such as "random, seed 0"."""
    source: str | None
    """The paper, and the file, that give the structure."""
    printed_millions: float | None
    """Parameters as a published model's authors print them."""
    tf32: bool
    macs: int | None
    """Of one run, padding included; None where the shape is not known."""
    leaderboard_macs: int | None
    """Of SUPERB's leaderboard, by its own rule (`sparsity/leaderboard.py`)."""
    peak_bytes: int | None
    """Live tensors with parameters, on the largest batch; None in a runtime other than torch."""
    reserved_bytes: int | None
    """What torch took from a CUDA device for that."""
    audio_s: float
    """Seconds of audio of one run, padding not counted."""
    real_time_factor: float
    """`seconds / audio_s`."""
    audio_per_second: float
    """`audio_s / seconds`."""
    shares: dict[str, float | None] | None
    """Of the time, by part, on the largest batch (`shares.shares`); None where compiled, or not torch's."""


def measure(
    models: list[TimedModel],
    workload: Workload,
    setting: TimingSetting,
    *,
    tf32: bool = False,
    loading: bool = False,
) -> tuple[list[WorkloadResult], list[Lost]]:
    """Time all models on one workload, in all its arrangements, interleaved, and add what else they cost.

    A model that cannot pad is left out where batches are padded, and this is said in the log. One that cannot run is
    among the second result; when that is the baseline, all are.
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
        except Exception as error:  # such as what does not fit while memory is looked at
            lost.append(Lost(name=model.label, workload=workload.title, reason=first_line(error)))
            _forget()
    return results, lost


def _entries(models: list[TimedModel], workload: Workload) -> dict[str, tuple[TimedModel, str]]:
    """Who runs in which arrangement, by a name of its own."""
    entries = {}
    for arrangement, batches in workload.arrangements.items():
        for model in models:
            if model.pads or not any(map(ragged, batches)):
                entries[f"{model.label} [{arrangement}]"] = (model, arrangement)
            else:
                logger.warning("%s: %s takes no padded batches and is left out.", workload.title, model.label)
    return entries


def _forget() -> None:
    """Give back what a model that failed has left on a GPU."""
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
    """A row: what the clock found, and what else the model costs."""
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
        # hooks would break a compiled graph apart
        shares=None if model.compiled or module is None else shares(module, model.encode, largest),
    )


def record(model: TimedModel, batches: Sequence[list[Tensor]]) -> None:
    """Let a compiled model make its kernels and graphs before any clock runs, and note what graphs keep."""
    if not model.compiled:
        return
    device = batches[0][0].device
    before = private_bytes(device)
    with torch.inference_mode(), suppress(Exception):  # the race, or the check, says what goes wrong
        for batch in one_of_each_shape(batches):
            for _ in range(_CALLS_TO_RECORD):
                model.encode(batch)
    model.graph_bytes += private_bytes(device) - before
