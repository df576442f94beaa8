"""The training loop. It reads top to bottom, and writes numbers and checkpoints."""

import time
from collections.abc import Callable
from pathlib import Path

from s3prl_pruned import distributed
from s3prl_pruned.command_line import Interrupted
from s3prl_pruned.pretrain.compiled import uncompiled
from s3prl_pruned.pretrain.config import RunnerConfig
from s3prl_pruned.pretrain.expert import Expert
from s3prl_pruned.pretrain.logging import RunLog
from s3prl_pruned.pretrain.trainer import Trainer
from s3prl_pruned.stop_requests import exit_code, stop_requests


def train(
    expert: Expert,
    config: RunnerConfig,
    folder: Path,
    *,
    seed: int,
    resume_from: Path | None = None,
    on_checkpoint: Callable[[Path], None] | None = None,
) -> None:
    """Train to `config.runner.total_steps`, from the start or from a checkpoint.

    Args:
        expert: an `UpstreamPretrainExpert` (the docstring of its module describes a step).
        config: configuration of the runner.
        folder: folder of the run; gets `states-*.ckpt`, `latest`, `log.jsonl` and `tensorboard/`.
        seed: seed of dropout, also recorded in checkpoints.
        resume_from: a checkpoint of the same run.
        on_checkpoint: called with `folder` in the main process after each checkpoint.

    Raises:
        Interrupted: stopped by one of `STOP_SIGNALS`, after saving.
        UserError: processes start from different weights, too many losses are not finite, or memory or disk are full;
            earlier checkpoints stay complete.
        ProcessLost: another process of the run has ended.
    """
    loop = config.runner
    trainer = Trainer(expert, config, seed=seed)
    if resume_from:
        trainer.resume(resume_from)
    distributed.refuse_different(expert.model.state_dict().items())
    log = RunLog(folder, step=trainer.step, total_steps=loop.total_steps) if distributed.is_main() else None
    try:
        _run(trainer, expert, config, folder, log, on_checkpoint)
    finally:  # so that an error starts on a new line below the bar
        if log:
            log.close()


def _run(
    trainer: Trainer,
    expert: Expert,
    config: RunnerConfig,
    folder: Path,
    log: RunLog | None,
    on_checkpoint: Callable[[Path], None] | None,
) -> None:
    loop = config.runner
    with stop_requests() as stop:
        started = time.perf_counter()
        for batches in trainer.batches():
            if log:
                log.describe("compiling" if trainer.compiles and not trainer.steps_taken else "")
            trainer.start(batches)
            step, last = trainer.step, trainer.step == loop.total_steps
            reason = stop.agreed()
            evaluate = step % loop.save_step == 0 or last
            save = evaluate or reason is not None  # after a stop signal there is no time for an evaluation
            write = step % loop.log_step == 0 or step == 1 or save
            done = trainer.finished(wait=write)
            if not done:
                continue
            now = time.perf_counter()
            pace, started = sum(records.pop("audio_seconds") for records in done) / (now - started), now
            for records in done:
                records["audio_seconds_per_second"] = pace
            records = done[-1]
            if evaluate:
                with trainer.autocast(), uncompiled():
                    records |= expert.evaluate()
            if log:
                for each in done:
                    log.progress(each, loss=each[expert.loss_name], reading=trainer.reading_pace)
                if write:
                    log.write(step, expert.log_records(records))
            if save:
                trainer.save(folder, best=log.best() if log else None)
                if log and on_checkpoint:
                    on_checkpoint(folder)
            if reason is not None and not last:
                raise Interrupted(
                    f"stopped by {reason} after step {step}; it is saved. Resume with -a.",
                    exit_code=exit_code(reason),
                )
