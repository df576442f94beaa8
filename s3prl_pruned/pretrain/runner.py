"""The training loop. It reads top to bottom, writes numbers and checkpoints, and draws nothing."""

import itertools
import logging
import math
import platform
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import torch

import s3prl_pruned
from s3prl_pruned import checkpoint
from s3prl_pruned.command_line import Interrupted
from s3prl_pruned.config import UserError, to_dict
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.pretrain.config import RunnerConfig
from s3prl_pruned.pretrain.logging import RunLog
from s3prl_pruned.pretrain.optim import build_optimizers

logger = logging.getLogger(__name__)


def train(expert, config: RunnerConfig, folder: Path, *, seed: int, resume_from: Path | None = None) -> None:
    """Train to `config.runner.total_steps`, from the start or from a checkpoint.

    Args:
        expert: an `UpstreamPretrainExpert` (its module's docstring says how a step runs).
        config: the runner's.
        folder: of the run; gets `states-*.ckpt`, `log.jsonl` and `tensorboard/`.
        seed: of dropout, and recorded in checkpoints.
        resume_from: a checkpoint of the same run.

    Raises:
        Interrupted: Ctrl-C or SIGTERM, after saving.
        UserError: the loss is not finite, or the disk is full; earlier checkpoints stay whole.
    """
    loop, device = config.runner, expert.device
    amp = loop.fp16 and device.type == "cuda"
    scaler = torch.amp.GradScaler(device.type, enabled=amp)
    optimizers = build_optimizers(expert, config.optimizer, loop.total_steps)
    torch.manual_seed(seed)
    step = _resume(resume_from, expert, optimizers, scaler) if resume_from else 0
    log = RunLog(folder, step=step, total_steps=loop.total_steps)
    per_step = loop.gradient_accumulate_steps
    batches = iter(expert.get_train_dataloader(step * per_step, loop.total_steps * per_step))
    expert.model.train()

    with _stop_requests() as stop:
        while step < loop.total_steps:
            step += 1
            started, records = time.perf_counter(), {}
            micro_batches = list(itertools.islice(batches, per_step))
            expert.begin_step(step, loop.total_steps, micro_batches)
            for batch in micro_batches:
                with torch.autocast(device.type, dtype=torch.float16, enabled=amp):
                    loss = expert(batch, records, step)
                _refuse_non_finite(loss, step, folder)
                scaler.scale(loss).backward()
            expert.end_backward(records, loss_scale=scaler.get_scale() if amp else 1.0)

            records["lr"] = optimizers.set_step(step)
            scaler.unscale_(optimizers.weights)
            records["gradient_norm"] = optimizers.clip(loop.gradient_clipping)
            if math.isfinite(records["gradient_norm"]):
                optimizers.step()
            else:  # fp16 overflow: the scaler lowers its scale and the whole step is skipped
                logger.warning("step %d is skipped: its gradient overflows under the loss scale.", step)
            scaler.update()
            expert.on_before_zero_grad()
            optimizers.zero_grad()

            audio = sum(wavs.numel() for wavs, _ in micro_batches) / SAMPLE_RATE
            records["audio_seconds_per_second"] = audio / (time.perf_counter() - started)
            log.progress(records)
            if step % loop.log_step == 0 or step in (1, loop.total_steps):
                log.write(step, expert.log_records(records))
            if step % loop.save_step == 0 or step == loop.total_steps or stop.requested:
                _save(folder, step, expert, optimizers, scaler, config, seed)
                checkpoint.rotate(folder, loop.max_keep)
            if stop.requested and step < loop.total_steps:
                log.close()
                raise Interrupted(f"stopped by {stop.requested} after step {step}; it is saved. Resume with -a.")
    log.close()


def _save(folder: Path, step: int, expert, optimizers, scaler, config: RunnerConfig, seed: int) -> None:
    state = {
        "Step": step,
        "Seed": seed,
        "Config": to_dict(config),
        "Optimizers": optimizers.state_dict(),
        "Scaler": scaler.state_dict(),
        "RNG": torch.get_rng_state(),
        "CUDA_RNG": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "Versions": versions(),
    }
    checkpoint.save_checkpoint(checkpoint.checkpoint_path(folder, step), expert.add_state_to_save(state))


def _resume(path: Path, expert, optimizers, scaler) -> int:
    state = checkpoint.load_checkpoint(path)
    expert.load_model(state)
    optimizers.load_state_dict(state["Optimizers"])
    scaler.load_state_dict(state["Scaler"])
    torch.set_rng_state(state["RNG"])
    if torch.cuda.is_available() and state["CUDA_RNG"]:
        torch.cuda.set_rng_state_all(state["CUDA_RNG"])
    return state["Step"]


def _refuse_non_finite(loss: torch.Tensor, step: int, folder: Path) -> None:
    if not torch.isfinite(loss):
        raise UserError(
            f"the loss of step {step} is {float(loss.detach())}. Nothing of this step is saved. Lower `optimizer.lr`, "
            f"or look at the data; checkpoints before it are whole in {folder}."
        )


class _StopRequest:
    requested: str | None = None


@contextmanager
def _stop_requests():
    """Ctrl-C and SIGTERM ask for a stop after the step under way; a second Ctrl-C stops at once."""
    stop = _StopRequest()

    def request(signum, frame):
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = signal.Signals(signum).name

    before = {signum: signal.signal(signum, request) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def versions() -> dict[str, str]:
    """What computed this: for checkpoints, cards and results."""
    return {"s3prl_pruned": s3prl_pruned.__version__, "torch": str(torch.__version__), "python": platform.python_version()}
