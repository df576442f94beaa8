"""A whole benchmark: build models, check that equal ones agree, time them on every workload, add further costs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.distributed import check_device
from s3prl_pruned.timing import inputs
from s3prl_pruned.timing.checks import Lost, check_equal, check_macs
from s3prl_pruned.timing.document import document
from s3prl_pruned.timing.inputs import Workload
from s3prl_pruned.timing.models import Builder
from s3prl_pruned.timing.names import WrongName, parse
from s3prl_pruned.timing.rows import WorkloadResult, measure, record
from s3prl_pruned.timing.runs import TimingSetting, check_setting, first_line, on_device, torch_threads
from s3prl_pruned.timing.timed_model import TimedModel

BUCKETING = (
    "unpadded: utterances bucketed by exact length instead of padded to the longest. Its gain over padded comes from "
    "the bucketing, not from the model; the baseline's own unpadded row shows how much that is."
)


@dataclass(kw_only=True)
class Options:
    """The options of the command line."""

    baseline: str
    models: list[str]
    """Names (`names.GRAMMAR`); the baseline is added if missing."""
    random: bool = False
    lengths: list[tuple[float, int]] = field(default_factory=list)
    """Pairs of seconds, and the number of utterances of that length in a batch."""
    mixed: tuple[float, float] | None = None
    """The shortest and the longest utterance of the mixed batch, seconds."""
    utterances: int = 8
    """Number of utterances in the mixed batch."""
    corpus: str | None = None
    use_corpus: bool = False
    limit: int | None = None
    bucket_s: float = 64.0
    dtype: str = "fp32"
    device: str = "cpu"
    threads: int = 1
    repeats: int | None = None
    """None: decided by time, see `runs.TimingSetting`."""
    min_seconds: float = 1.0
    seed: int = 0
    tf32: bool = False
    """CUDA: measure everything a second time with TF32 on."""
    autocast: bool = False
    """Keep weights in fp32, and compute in `dtype` under `torch.autocast`."""
    include_loading: bool = False
    """Include reading the audio (of a corpus: from its files) and copying it to the device in each timed run."""

    @property
    def setting(self) -> TimingSetting:
        """The setting for the clock."""
        return TimingSetting(
            baseline=self.baseline,
            device=self.device,
            threads=self.threads,
            repeats=self.repeats,
            min_seconds=self.min_seconds,
            seed=self.seed,
        )


def run(options: Options, *, progress: Callable[[str], None] = lambda text: None) -> dict:
    """Measure everything and return the one JSON document.

    Args:
        options: the options of the command line.
        progress: called with lines of text on the progress.

    A model that cannot be built or run is left out; the document's `lost` says why.

    Raises:
        UserError: if an option or a name is wrong, or the baseline cannot be timed.
    """
    check_options(options)
    workloads, setting = _workloads(options), options.setting
    models, lost = _build(options, progress)
    with _precision(tf32=False), torch_threads(options.threads), on_device(torch.device(options.device)):
        for model in models:
            record(model, [workloads[0].utterances[:1]])
        checks, unequal = check_equal(models, workloads[0].utterances[0])
        counted = check_macs(models)
    lost += unequal
    models = [model for model in models if model.label not in {one.name for one in unequal}]
    for text in [*(check["text"] for check in checks), *(f"left out: {one.name}: {one.reason}" for one in lost)]:
        progress(text)
    _require_baseline(options, lost)
    results: list[WorkloadResult] = []
    for tf32 in (False, True) if options.tf32 else (False,):
        for workload in workloads:
            progress(f"timing {len(models)} models on {workload.title}" + ", TF32 on" * tf32)
            with _precision(tf32=tf32), torch_threads(options.threads), on_device(torch.device(options.device)):
                measured, unable = measure(models, workload, setting, tf32=tf32, loading=options.include_loading)
            results += measured
            lost += unable
            for one in unable:
                progress(f"left out: {one.name} on {one.workload}: {one.reason}")
    if not results:
        raise UserError(f"nothing could be timed: {lost[0].name} on {lost[0].workload}: {lost[0].reason}")
    notes = [BUCKETING] if options.mixed else []
    return document(
        setting, results, dtype=str(DTYPE_NAMES[options.dtype]), random=options.random, checks=checks,
        macs_checked_with_torch=counted, notes=notes, autocast=options.autocast,
        include_loading=options.include_loading, lost=[asdict(one) for one in lost],
    )  # fmt: skip


def _build(options: Options, progress: Callable[[str], None]) -> tuple[list[TimedModel], list[Lost]]:
    """The models, the baseline first, and those that cannot be built here."""
    builder = Builder(
        random=options.random, device=options.device, precision=options.dtype, seed=options.seed,
        autocast=options.autocast, threads=options.threads,
    )  # fmt: skip
    models, lost = [], []
    for name in [parse(text) for text in dict.fromkeys([options.baseline, *options.models])]:
        progress(f"building {name.text}")
        try:
            models.append(builder.build(name))
        except WrongName:
            raise
        except Exception as error:  # libraries raise all kinds of errors
            if isinstance(error, UserError) and name.text == options.baseline:
                raise
            lost.append(Lost(name=name.text, workload=None, reason=first_line(error)))
    _require_baseline(options, lost)
    return models, lost


def _require_baseline(options: Options, lost: list[Lost]) -> None:
    for one in lost:
        if one.name == options.baseline:
            raise UserError(f"the baseline {one.name} cannot be timed: {one.reason} Name another with --baseline.")


DTYPE_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def check_options(options: Options) -> None:
    """Raise UserError for a single wrong option."""
    if options.dtype not in DTYPE_NAMES:
        raise UserError(
            f"`dtype` must be one of {list(DTYPE_NAMES)}, but is {options.dtype!r}. int8 is a model's variant: "
            "ours:conc+int8."
        )
    check_setting(options.setting)
    if options.autocast and options.dtype == "fp32":
        raise UserError("`autocast` needs a lower precision to compute in. Add --dtype bf16 or --dtype fp16.")
    cuda = options.device.partition(":")[0] == "cuda"
    check_device(options.device)
    if options.tf32 and not cuda:
        raise UserError(f"`tf32` is for CUDA GPUs only, but `device` is {options.device}. Leave --tf32 out.")


def _workloads(options: Options) -> list[Workload]:
    made = [
        inputs.fixed(seconds, batch=batch, seed=options.seed, device=options.device)
        for seconds, batch in options.lengths
    ]
    if options.mixed:
        made.append(inputs.mixed(*options.mixed, options.utterances, seed=options.seed, device=options.device))
    if options.use_corpus:
        made += inputs.corpus(options.corpus, limit=options.limit, bucket_s=options.bucket_s, device=options.device)
    if not made:
        raise UserError("there is no input to time models on. Give --lengths, --mixed or --corpus.")
    return made


@contextmanager
def _precision(*, tf32: bool) -> Iterator[None]:
    """Set TF32 for both cuBLAS and cuDNN (whose default is on); restored afterwards."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
