"""A whole benchmark: build models, see that equal ones agree, time them on every workload, add what else they cost."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.distributed import check_device
from s3prl_pruned.timing import inputs
from s3prl_pruned.timing.adapters import ragged
from s3prl_pruned.timing.checks import CANNOT_RUN, check_equal, check_macs, first_line
from s3prl_pruned.timing.clock import TimedCalls, TimingResult, TimingSetting, race, torch_threads
from s3prl_pruned.timing.document import document
from s3prl_pruned.timing.inputs import Workload
from s3prl_pruned.timing.memory import peak_bytes
from s3prl_pruned.timing.models import Builder, TimedModel
from s3prl_pruned.timing.names import parse
from s3prl_pruned.timing.shares import shares
from s3prl_pruned.timing.work import macs_of

logger = logging.getLogger(__name__)

BUCKETING = (
    "unpadded: utterances bucketed by exact length instead of padded to the longest. What it gains over padded comes "
    "of the bucketing, not of the model; the baseline's own unpadded row shows how much that is."
)


@dataclass(kw_only=True)
class WorkloadResult(TimingResult):
    """One model on one workload: `clock.TimingResult`, and what else it costs."""

    workload: str
    arrangement: str
    """One of `inputs.Workload.arrangements`."""
    precision: str
    weights: str
    """Where they come from, such as "random, seed 0"."""
    tf32: bool
    macs: int | None
    """Of one run, padding included; None where the shape is not known."""
    peak_bytes: int
    """Live tensors with parameters, on the largest batch."""
    audio_s: float
    """Seconds of audio of one run, padding not counted."""
    real_time_factor: float
    """`seconds / audio_s`."""
    audio_per_second: float
    """`audio_s / seconds`."""
    shares: dict[str, float | None] | None
    """Of the time, by part, on the largest batch (`shares.shares`); None where the model is compiled."""


@dataclass(kw_only=True)
class Options:
    """What the command line asks for."""

    baseline: str
    models: list[str]
    """Names (`names.GRAMMAR`); the baseline is added where it is not among them."""
    random: bool = False
    lengths: list[float] = field(default_factory=list)
    """Seconds."""
    batch: int = 1
    """Utterances of each fixed length."""
    mixed: tuple[float, float] | None = None
    """Shortest and longest, seconds."""
    utterances: int = 8
    """Of the mixed batch."""
    corpus: str | None = None
    use_corpus: bool = False
    limit: int | None = None
    bucket_s: float = 64.0
    dtype: str = "fp32"
    device: str = "cpu"
    threads: int = 1
    repeats: int = 5
    seed: int = 0
    tf32: bool = False
    """CUDA: measure everything a second time with TF32 on."""


def run(options: Options, *, progress: Callable[[str], None] = lambda text: None) -> dict:
    """Measure everything and return the one JSON document.

    Args:
        options: what the command line asks for.
        progress: called with a line on what is being done.

    Raises:
        UserError: an option or a name is wrong, a model cannot be had or run, or models that must agree do not.
    """
    check_options(options)
    names = [parse(text) for text in dict.fromkeys([options.baseline, *options.models])]
    workloads = _workloads(options)
    builder = Builder(random=options.random, device=options.device, precision=options.dtype, seed=options.seed)
    models = []
    for name in names:
        progress(f"building {name.text}")
        models.append(builder.build(name))
    setting = TimingSetting(
        baseline=options.baseline,
        device=options.device,
        threads=options.threads,
        repeats=options.repeats,
        seed=options.seed,
    )
    with _precision(tf32=False), torch_threads(options.threads):
        checks = check_equal(models, workloads[0].utterances[0])
        counted = check_macs(models)
    for check in checks:
        progress(check["text"])
    results: list[WorkloadResult] = []
    for tf32 in (False, True) if options.tf32 else (False,):
        for workload in workloads:
            progress(f"timing {len(models)} models on {workload.title}" + ", TF32 on" * tf32)
            with _precision(tf32=tf32), torch_threads(options.threads):
                results += measure(models, workload, setting, tf32=tf32)
    notes = [BUCKETING] if options.mixed else []
    return document(
        setting, results, dtype=str(DTYPE_NAMES[options.dtype]), random=options.random, checks=checks,
        macs_checked_with_torch=counted, notes=notes,
    )  # fmt: skip


DTYPE_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def check_options(options: Options) -> None:
    """Raise UserError for an option that is wrong by itself."""
    if options.dtype not in DTYPE_NAMES:
        raise UserError(
            f"`dtype` must be one of {list(DTYPE_NAMES)}, but is {options.dtype!r}. int8 is a model's variant: "
            "ours:conc+int8."
        )
    if options.repeats < 1 or options.threads < 1:
        raise UserError(f"`repeats` and `threads` must be at least 1, but are {options.repeats} and {options.threads}.")
    cuda = options.device.partition(":")[0] == "cuda"
    check_device(options.device)
    if options.tf32 and not cuda:
        raise UserError(f"`tf32` is of CUDA GPUs only, but `device` is {options.device}. Leave --tf32 out.")


def _workloads(options: Options) -> list[Workload]:
    made = [
        inputs.fixed(seconds, batch=options.batch, seed=options.seed, device=options.device)
        for seconds in options.lengths
    ]
    if options.mixed:
        made.append(inputs.mixed(*options.mixed, options.utterances, seed=options.seed, device=options.device))
    if options.use_corpus:
        made += inputs.corpus(options.corpus, limit=options.limit, bucket_s=options.bucket_s, device=options.device)
    if not made:
        raise UserError("there is nothing to time models on. Give --lengths, --mixed or --corpus.")
    return made


def measure(
    models: list[TimedModel], workload: Workload, setting: TimingSetting, *, tf32: bool = False
) -> list[WorkloadResult]:
    """Time all models on one workload, in all its arrangements, interleaved, and add what else they cost.

    A model that cannot pad is left out where batches are padded, and this is said in the log.

    Raises:
        UserError: the baseline is such a model, or one of the models cannot run.
    """
    first = next(iter(workload.arrangements))
    entries = {}
    for arrangement, batches in workload.arrangements.items():
        for model in models:
            if model.pads or not any(map(ragged, batches)):
                entries[f"{model.label} [{arrangement}]"] = (model, arrangement)
            else:
                logger.warning("%s: %s takes no padded batches and is left out.", workload.title, model.label)
    calls = [
        TimedCalls(name=key, model=model.encode, batches=workload.arrangements[arrangement])
        for key, (model, arrangement) in entries.items()
    ]
    try:
        timed = race(calls, TimingSetting(**{**vars(setting), "baseline": f"{setting.baseline} [{first}]"}))
    except CANNOT_RUN as error:
        raise UserError(f"{workload.title}: a model cannot run: {first_line(error)}") from error
    results = []
    for result, (model, arrangement) in zip(timed, entries.values(), strict=True):
        batches = workload.arrangements[arrangement]
        largest = max(batches, key=lambda batch: len(batch) * max(map(len, batch)))
        compiled = "compiled" in model.name.variants
        more = {"name": model.label, "params": model.params}
        results.append(
            WorkloadResult(
                **{**vars(result), **more},
                workload=workload.title,
                arrangement=arrangement,
                precision=model.precision,
                weights=model.weights,
                tf32=tf32,
                macs=macs_of(model.config, model.spec, batches) if model.config and model.spec else None,
                peak_bytes=peak_bytes(model.module, model.encode, largest),
                audio_s=workload.audio_s,
                real_time_factor=result.seconds / workload.audio_s,
                audio_per_second=workload.audio_s / result.seconds,
                # hooks would break a compiled graph apart
                shares=None if compiled else shares(model.module, model.encode, largest),
            )
        )
    return results


@contextmanager
def _precision(*, tf32: bool) -> Iterator[None]:
    """TF32 as asked for, of both cuBLAS and cuDNN (whose default is on); put back afterwards."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
