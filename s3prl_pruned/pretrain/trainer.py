"""One optimiser step of a run, and everything that its checkpoints hold.

With several processes (`torchrun`), each takes its share of the micro-batches of a step: whole ones, or parts if there
are more processes than micro-batches. Masks, multipliers, matched pairs and summed gradients are the same in all
processes, so that all take the same step, and it is the step that one process would take. The number of micro-batches
per step is fixed when a run starts (`gradient_accumulate_steps`, times the processes if `scale_batch_with_processes` is
set) and kept in checkpoints: a run that resumes with another number of processes sees the same audio and computes the
same losses.

On a GPU the CPU does not wait for the end of a step: `start` queues it, and `finished` returns its records
`STEPS_BEHIND` steps later. Decisions that depend on values of the step (such as skipping it) are made on the device.
"""

import itertools
import logging
import math
import platform
import time
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

import s3prl_pruned
from s3prl_pruned import checkpoint, distributed
from s3prl_pruned.config import UserError, to_dict
from s3prl_pruned.data.batches import Share, in_parts
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.pretrain.average import WeightAverage
from s3prl_pruned.pretrain.compiled import compile_encoders, round_weights, uncompiled, warm_up
from s3prl_pruned.pretrain.config import RunnerConfig
from s3prl_pruned.pretrain.expert import Expert, checkpoint_activations
from s3prl_pruned.pretrain.gradients import GradientSums
from s3prl_pruned.pretrain.memory_errors import memory_error_named, peak_memory
from s3prl_pruned.pretrain.optim import build_optimizers
from s3prl_pruned.pretrain.reading import Reader
from s3prl_pruned.pretrain.records import STEPS_BEHIND, StepRecords, is_finite, sum_over_processes

logger = logging.getLogger(__name__)

_SCALE = "loss_scale"
"""Key of the loss scale in a step's records, until they are read."""


class Trainer:
    """State of a run between two steps.

    Args:
        expert: an `UpstreamPretrainExpert` (the docstring of its module describes a step).
        config: configuration of the runner.
        seed: seed of dropout, also recorded in checkpoints.

    Attributes:
        step: queued optimiser steps, including skipped ones.
        bad_steps: skipped steps with a non-finite loss or gradient, of those that `finished` returned.
        steps_taken: steps of this process since it started or resumed.
        compiles: whether layers and CNNs use torch.compile.
        per_step: micro-batches per optimiser step, over all processes.
        seconds: time spent in queueing steps and waiting for them, without reading data, checkpoints and evaluation.
    """

    def __init__(self, expert: Expert, config: RunnerConfig, *, seed: int):
        self.expert, self.config, self.seed = expert, config, seed
        self.loop = config.runner
        self.step, self.bad_steps, self.seconds, self.steps_taken = 0, 0, 0.0, 0
        self.per_step = self.loop.micro_batches_per_step(distributed.world_size())
        self.optimizers = build_optimizers(expert, config.optimizer, self.loop.total_steps)
        self._gradients = GradientSums(self.optimizers.weight_parameters)
        decay = self.loop.ema_decay
        expert.average = None if decay is None else WeightAverage(self.optimizers.weight_parameters, decay)
        self._device = expert.device.type
        self._behind = STEPS_BEHIND if self._device == "cuda" else 0
        self._unread: deque[StepRecords] = deque()
        self._reader: Reader | None = None
        self._peak = 0.0
        self._warm: set[bool] = set()
        self._precision = self.loop.precision(self._device)
        self._scaler = torch.amp.GradScaler(self._device, enabled=self._precision == torch.float16)
        self._seed_dropout()
        teacher = getattr(expert.model, "teacher", None)
        if teacher is not None and self._precision != torch.float32:
            round_weights(teacher, self._precision)
        self.compiles = self.loop.compiles(self._device)
        if self.compiles:
            encoders = [module for module in expert.model.children() if isinstance(module, SpeechEncoder)]
            compile_encoders(*encoders, few_lengths=expert.datarc.crop_lengths is not None)
        if self._device == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.loop.tf32
        if self.loop.gradient_checkpointing:
            checkpoint_activations(expert.model.student)
        expert.model.train()

    def autocast(self) -> torch.autocast:
        """Half precision if the run uses it: for losses, and for computations on batches in `begin_step`."""
        return torch.autocast(self._device, dtype=self._precision, enabled=self._precision != torch.float32)

    def batches(self) -> Iterator[list]:
        """This process's micro-batches, or parts of them, of each remaining step."""
        world, smallest = distributed.world_size(), self.expert.batches.smallest
        parts = parts_of_micro_batch(self.per_step, world)
        if parts > smallest:
            raise UserError(
                f"a step of this run has {self.per_step} micro-batches. {world} processes would split each one into "
                f"{parts} parts, but the smallest has {smallest} utterances. Start fewer processes, or raise "
                "`datarc.train_batch_size` (`datarc.max_batch_seconds`), or, for a global "
                "batch that is larger by the number of processes, set `runner.scale_batch_with_processes=true`."
            )
        steps = range(self.step, self.loop.total_steps)
        self._reader = self.expert.get_train_dataloader(share for step in steps for share in self._shares(step, parts))
        loader = iter(self._reader)
        own = len(self._shares(0, parts))
        for _ in steps:
            try:
                batches = list(itertools.islice(loader, own))
            except UserError as error:  # a worker process puts its traceback before the message
                raise UserError(str(error).rsplit("UserError: ", 1)[-1].strip()) from error
            yield batches

    @property
    def reading_pace(self) -> float:
        """Seconds of audio per second that the worker processes of this process can read."""
        return 0.0 if self._reader is None else self._reader.pace

    def _shares(self, step: int, parts: int) -> list[Share]:
        """This process's parts of the step's micro-batches (`parts` each): numbers r, r + w, ... for w processes."""
        own = range(distributed.rank(), self.per_step * parts, distributed.world_size())
        return [(step * self.per_step + number // parts, number % parts, parts) for number in own]

    def advance(self, batches: list) -> dict[str, float]:
        """Take one optimiser step and wait for it: `start`, then `finished`.

        Returns:
            The records of the step.
        """
        self.start(batches)
        return self.finished(wait=True)[-1]

    def start(self, batches: list) -> None:
        """Queue one optimiser step.

        Raises:
            UserError: out of memory.
            ProcessLost: another process of the run has ended.
        """
        began = time.perf_counter()
        self.step, self.steps_taken = self.step + 1, self.steps_taken + 1
        records: dict[str, float | Tensor] = {}
        datarc = self.expert.datarc
        batches = [part for batch in batches for part in in_parts(batch, self.loop.max_seconds_at_once)]
        with memory_error_named(self.config, self._device):
            with self.autocast(), uncompiled() if self.compiles else nullcontext():
                self.expert.begin_step(self.step, self.loop.total_steps, batches)
            if self.compiles and datarc.crop_lengths is None and self.expert.masks_are_learned not in self._warm:
                self._warm_up()
            for number, batch in enumerate(batches, start=1):
                with self.autocast():
                    loss = self.expert(batch, records, self.step)
                if number == len(batches) and not self.expert.adds_to_gradients:
                    self._gradients.watch()
                self._scaler.scale(loss).backward()
            records["audio_seconds"] = sum(batch[0].numel() for batch in batches) / SAMPLE_RATE
            sum_over_processes(records, self.expert.device)
            records |= self._update(records)
        self.seconds += time.perf_counter() - began
        self._unread.append(StepRecords.sent(self.step, records))

    def _warm_up(self) -> None:
        """Compile for the masks of this step: those at the end of a run have no gradient, and need other kernels."""
        datarc, model = self.expert.datarc, self.expert.model
        shape = (datarc.train_batch_size, self.expert.batches.max_samples)
        if datarc.max_batch_seconds is not None:
            shape = (max(2, int(datarc.max_batch_seconds // datarc.max_seconds)), shape[1])
        wavs = 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))
        (wavs,), *_ = in_parts((wavs,), self.loop.max_seconds_at_once)
        with self.autocast():
            warm_up(
                getattr(model, "teacher", None),
                model.student,
                wavs.to(self.expert.device),
                shares_features=getattr(model, "shares_features", False),
            )
        self.optimizers.zero_grad()
        self.expert.drop_mask_gradients()
        self._warm.add(self.expert.masks_are_learned)

    def _update(self, records: dict[str, float | Tensor]) -> dict[str, float | Tensor]:
        """Update weights and gates from the gradients of all micro-batches, unless a term is not finite."""
        scale = self._scaler.scale(torch.ones((), device=self.expert.device)) if self._scaler.is_enabled() else 1.0
        self.expert.end_backward(records, loss_scale=scale)
        self._gradients.finish()

        lr = self.optimizers.set_step(self.step)
        self._scaler.unscale_(self.optimizers.weights)
        norm = self.optimizers.clip(self.loop.gradient_clipping)
        gate_norm = self.optimizers.gate_gradient_norm()
        usable = is_finite(records[self.expert.loss_name], norm, gate_norm)
        unless = usable.logical_not().float()
        self.optimizers.step(unless=unless)
        if self.expert.average is not None:
            self.expert.average.update(self.step, unless=unless)
        self._scaler.update()
        self.expert.on_before_zero_grad()
        self.optimizers.zero_grad()
        return {"lr": lr, "gradient_norm": norm, "gate_gradient_norm": gate_norm, _SCALE: scale}

    def finished(self, *, wait: bool = False) -> list[dict[str, float]]:
        """Records of finished steps that were not returned yet, in order, the same in every process.

        Args:
            wait: wait for all steps; else return only steps so far behind that a GPU still has work.

        Raises:
            UserError: more than `max_bad_steps` steps had a loss or gradient that is not finite.
        """
        began, found = time.perf_counter(), []
        if wait or self._device != "cuda":  # the query to CUDA takes time
            self._peak = peak_memory(self._device)
        while len(self._unread) > (0 if wait else self._behind):
            sent = self._unread.popleft()
            records = sent.read()
            self._judge(sent.step, records, loss_scale=records.pop(_SCALE))
            records |= {"bad_steps": self.bad_steps, "memory_gib": self._peak}
            found.append(records)
        self.seconds += time.perf_counter() - began
        for records in found:
            records["train_seconds"] = self.seconds
        return found

    def _judge(self, step: int, records: dict[str, float], *, loss_scale: float) -> None:
        """Report steps that changed nothing, count those that are limited, and stop at the limit."""
        terms = {name: records[name] for name in (self.expert.loss_name, "gradient_norm", "gate_gradient_norm")}
        broken = {name: value for name, value in terms.items() if not math.isfinite(value)}
        if not broken:
            return
        if self.expert.loss_name not in broken and self._scaler.is_enabled() and loss_scale > 1:
            logger.warning("step %d is skipped: its gradient overflows under the loss scale.", step)
            return
        self.bad_steps += 1
        what = ", ".join(f"{name} is {value}" for name, value in broken.items())
        logger.warning("step %d is skipped (%d skipped so far): %s.", step, self.bad_steps, what)
        if self.bad_steps > self.loop.max_bad_steps:
            raise UserError(
                f"step {step}: {what}. `max_bad_steps` allows {self.loop.max_bad_steps} such steps, and this is "
                f"number {self.bad_steps}; it is not saved. Lower `optimizer.lr`, or check the data, then "
                "resume from an earlier checkpoint."
            )

    def save(self, folder: Path, *, best: int | None = None) -> Path:
        """Write `states-{step}.ckpt` from the main process, and update the links `latest` and `best`.

        Args:
            folder: folder of the run.
            best: step of the best checkpoint, which is kept; None if there is none, and in all other processes.

        Raises:
            UserError: in every process: it cannot be written, or weights are not finite. Earlier ones stay complete.
        """
        assert not self._unread, "a bad step that is not counted yet would be lost"
        cuda = torch.cuda.get_rng_state(self.expert.device) if self._device == "cuda" else None
        generators = distributed.gather({"cpu": torch.get_rng_state(), "cuda": cuda})
        path = checkpoint.checkpoint_path(folder, self.step)
        distributed.from_main(lambda: self._write(path, generators, best))
        return path

    def _write(self, path: Path, generators: list[dict], best: int | None) -> None:
        for name, parameter in self.expert.model.named_parameters():
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                raise UserError(f"step {self.step}: {name} is not finite, so nothing is saved. Lower `optimizer.lr`.")
        checkpoint.save_checkpoint(path, self._state(generators))
        checkpoint.point_latest(path.parent)
        if best is not None:
            checkpoint.point(path.parent, "best", checkpoint.checkpoint_path(path.parent, best))
        checkpoint.rotate(path.parent, self.loop.max_keep, best=best)

    def size_of_checkpoint(self) -> int:
        """Size in bytes of a checkpoint at this moment; nothing is written."""
        return checkpoint.size(self._state([{"cpu": torch.get_rng_state(), "cuda": None}]))

    def _state(self, generators: list[dict]) -> dict:
        state = {
            "Step": self.step,
            "Bad_Steps": self.bad_steps,
            "Seconds": self.seconds,
            "Micro_Batches_Per_Step": self.per_step,
            "Data_Position": self.step * self.per_step,
            "Seed": self.seed,
            "Config": to_dict(self.config),
            "Optimizers": self.optimizers.state_dict(),
            "Scaler": self._scaler.state_dict(),
            "RNG": generators,
            "Versions": versions(),
        }
        return self.expert.add_state_to_save(state)

    def resume(self, path: Path) -> None:
        """Resume from a checkpoint.

        Raises:
            UserError: it is damaged, or is not a checkpoint of a run.
        """
        state = checkpoint.load_checkpoint(path)
        try:
            self.expert.load_model(state)
            self.optimizers.load_state_dict(state["Optimizers"])
            self._scaler.load_state_dict(state["Scaler"])
            self.step, self.bad_steps, generators = state["Step"], state["Bad_Steps"], state["RNG"]
            self.per_step, self.seconds = state["Micro_Batches_Per_Step"], state.get("Seconds", 0.0)
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise UserError(f"{path}: is not a checkpoint of this run ({error!r}).") from error
        if len(generators) == distributed.world_size():
            own = generators[distributed.rank()]
            torch.set_rng_state(own["cpu"])
            if self._device == "cuda" and own["cuda"] is not None:
                torch.cuda.set_rng_state(own["cuda"], self.expert.device)
            return
        self._seed_dropout()
        if distributed.is_main():
            logger.warning(
                "%s was written by %d process(es), now there are %d: each step's %d micro-batches are redistributed. "
                "The data continue where they stopped; only dropout draws other numbers.",
                path, len(generators), distributed.world_size(), self.per_step,
            )  # fmt: skip

    def _seed_dropout(self) -> None:
        torch.manual_seed(self.seed + self.step + distributed.rank())


def parts_of_micro_batch(per_step: int, processes: int) -> int:
    """Number of parts of each micro-batch such that all processes get equally many; 1 means whole micro-batches."""
    return processes // math.gcd(per_step, processes)


def versions() -> dict[str, str]:
    """Versions of the software, for checkpoints, cards and results."""
    return {
        "s3prl_pruned": s3prl_pruned.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
