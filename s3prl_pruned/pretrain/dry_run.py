"""`run_pretrain.py --dry-run`: check everything that could stop a long run, before it starts. Writes nothing."""

import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from s3prl_pruned import distributed
from s3prl_pruned.config import UserError
from s3prl_pruned.data.manifest import refuse_missing_files
from s3prl_pruned.pretrain.config import RunnerConfig
from s3prl_pruned.pretrain.expert import Expert
from s3prl_pruned.pretrain.memory import Batch, Memory, memory_of_step, setting_of
from s3prl_pruned.pretrain.trainer import Trainer

PAPER_STEPS = 200_000


@dataclass(frozen=True)
class DryRun:
    """Results of a dry run."""

    seconds_per_step: float
    """Median time of a step in seconds, without the first one."""
    audio_seconds_per_second: float
    memory_gib: float
    """Peak memory of this process in GiB, including a step with the largest batch of the run."""
    largest_batch: Batch
    """Size of that batch."""
    expected: Memory
    """Memory of such a step on a GPU, by the formula of `memory.py`."""
    checkpoint_gib: float
    """Size of one checkpoint in GiB."""
    free_gib: float
    """Free space in GiB on the disk of the run's folder."""
    losses: list[float]
    """Loss of each step."""


def dry_run(expert: Expert, config: RunnerConfig, folder: Path, *, seed: int, steps: int = 4) -> DryRun:
    """Check that all audio files exist, compare checkpoints with the free disk space, and take a few real steps.

    After the first steps, one more step uses only the run's largest batch: if that fits into memory, all steps will.

    Args:
        expert: an `UpstreamPretrainExpert`; its weights change.
        config: configuration of the runner.
        folder: folder of the run; may not exist, and is not created.
        seed: seed of dropout.
        steps: number of steps to take; the first is not timed.

    Raises:
        UserError: audio is missing, the disk is too small for the kept checkpoints, or as in `Trainer.advance`.
    """
    refuse_missing_files(expert.batches.utterances, where="the training corpus", look_at=0)
    expert.rehearsal = True
    trainer = Trainer(expert, config, seed=seed)
    batches, seconds, audio, losses = trainer.batches(), [], [], []
    for _ in range(min(steps, config.runner.total_steps)):
        began = time.perf_counter()
        records = trainer.advance(next(batches))  # waits for its loss, also on a GPU
        seconds.append(time.perf_counter() - began)
        audio.append(records["audio_seconds"])
        losses.append(records[expert.loss_name])
    largest = _largest_batch(expert, trainer)
    trainer.step = min(trainer.step, config.runner.total_steps - 1)  # schedules end with the run
    peak = trainer.advance([largest] * config.runner.gradient_accumulate_steps)["memory_gib"]
    timed = slice(1, None) if len(seconds) > 1 else slice(None)
    checkpoint = trainer.size_of_checkpoint() / 2**30
    free = shutil.disk_usage(_existing(folder)).free / 2**30
    needed = checkpoint * (config.runner.max_keep + 1)  # the newest is written before the oldest is deleted
    if distributed.is_main() and needed > free:
        raise UserError(
            f"{folder}: `runner.max_keep` = {config.runner.max_keep} checkpoints of {checkpoint:.2f} GiB and one being "
            f"written need {needed:.2f} GiB, but only {free:.2f} GiB are free. Free space, lower `runner.max_keep`, or "
            "choose another folder with -p."
        )
    return DryRun(
        seconds_per_step=statistics.median(seconds[timed]),
        audio_seconds_per_second=sum(audio[timed]) / sum(seconds[timed]),
        memory_gib=peak,
        largest_batch=Batch(*largest[0].shape),
        expected=memory_of_step(setting_of(expert, config.runner), Batch(*largest[0].shape)),
        checkpoint_gib=checkpoint,
        free_gib=free,
        losses=losses,
    )


def describe(found: DryRun, config: RunnerConfig, device: str) -> str:
    """The results as lines for the screen."""
    loop = config.runner
    batch, precision = found.largest_batch, str(loop.precision("cuda")).removeprefix("torch.")
    hours = found.seconds_per_step * loop.total_steps / 3600
    paper = found.seconds_per_step * PAPER_STEPS / 3600
    return "\n".join(
        [
            f"first losses: {', '.join(f'{loss:.4g}' for loss in found.losses)}",
            f"memory: {found.memory_gib:.2f} GiB at most on {device}, per process, with the largest batch of the run, "
            f"{batch.utterances} x {batch.seconds:.2f} s",
            f"estimated GPU memory for that batch, in {precision}: {found.expected.in_words()}",
            f"disk: {found.checkpoint_gib:.2f} GiB a checkpoint, {loop.max_keep} kept; {found.free_gib:.1f} GiB free",
            f"speed on {device}: {found.seconds_per_step:.3g} s a step, "
            f"{found.audio_seconds_per_second:.3g} s of audio a second",
            f"time to finish: {_hours(hours)} for {loop.total_steps:,} steps; {PAPER_STEPS:,} steps as in the paper, "
            f"of this recipe's batches: {_hours(paper)}",
            "nothing was written",
        ]
    )


def _largest_batch(expert: Expert, trainer: Trainer) -> tuple[torch.Tensor, ...]:
    """The batch of the run that takes the most memory."""
    numbers = range(trainer.per_step * trainer.loop.total_steps)
    setting = setting_of(expert, trainer.loop)

    def size(utterances: int, samples: int) -> float:
        return memory_of_step(setting, Batch(utterances, samples)).total

    number = expert.batches.largest(numbers, size)
    return next(iter(expert.get_train_dataloader([number])))


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _hours(hours: float) -> str:
    return f"{hours:.2f} h" if hours < 100 else f"{hours:.0f} h ({hours / 24:.1f} days)"
