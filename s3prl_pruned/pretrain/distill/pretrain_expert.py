"""The pre-training expert for distillation with pruning, in s3prl's layout, for any pruner.

One optimiser step, as in `pretrain/expert.py`, with:

    begin_step       match layers by the running errors of earlier steps
    forward          per micro-batch: teacher, masked student, errors of matched pairs
    end_backward     add the step's errors of all pairs to the running errors
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from s3prl_pruned import distributed
from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.data.batches import RandomCropBatches
from s3prl_pruned.data.corpus import embedded_corpus
from s3prl_pruned.data.manifest import Utterance, speech_digest
from s3prl_pruned.data.sources import open_corpus
from s3prl_pruned.gates.attach import MaskDraw
from s3prl_pruned.objectives.distill import LayerDistillation
from s3prl_pruned.objectives.matching import match_layers
from s3prl_pruned.pretrain.config import DataConfig
from s3prl_pruned.pretrain.distill.config import ModelConfig
from s3prl_pruned.pretrain.distill.model import DistillForPretrain
from s3prl_pruned.pretrain.distill.teachers import Teacher, load_teacher
from s3prl_pruned.pretrain.expert import Expert, add_records, model_config
from s3prl_pruned.progress import progress
from s3prl_pruned.transfers import HostCopy, to_device

logger = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]
"""wavs (B, S) float32, lengths (B,) int64."""
Pairs = list[tuple[int, int]]
"""Pairs in the form of `match_layers`."""
RUNNING_SHARE = 0.9
"""Decay of the running errors per step. They chose the same pairs as the errors of the step itself in at least 499 of
500 steps (LOG.md), and are known before its first forward pass."""


@dataclass
class _Matched:
    """Frames and matched pairs of the loss in the current optimiser step."""

    global_frames: int
    pairs: Pairs | None
    """None while the data that determine the pairs are being copied from the device."""
    running_errors: HostCopy | None = None


class UpstreamPretrainExpert(Expert):
    """s3prl's interface (`pretrain/runner.py` there): device, forward, load_model, add_state_to_save, ...

    Args:
        datarc: `DataConfig` or its dict.
        upstream_config: `ModelConfig`, its dict, or the path of a `config_model.yaml`.
        device: torch device.
        seed: seed of batches, masks and random teachers.
        family: required family of the teacher, one of `models.shape.FAMILIES`; None accepts any.
    """

    loss_name = "distill"
    model: DistillForPretrain
    upstream_config: ModelConfig

    def __init__(
        self,
        datarc: DataConfig | dict,
        upstream_config: ModelConfig | dict | str,
        device: str = "cuda",
        *,
        seed: int = 0,
        family: str | None = None,
    ):
        super().__init__()
        self.device = torch.device(device)
        self.seed = seed
        self.datarc = datarc if isinstance(datarc, DataConfig) else from_dict(DataConfig, datarc, "datarc")
        self.upstream_config = model_config(upstream_config, ModelConfig)
        self.loaded_teacher: Teacher = load_teacher(self.upstream_config.teacher, seed, family=family)
        self.model = DistillForPretrain(self.loaded_teacher.encoder, self.upstream_config, seed=seed)
        corpus = training_corpus(self.datarc)
        self.speech = speech_digest(corpus)
        self.batches = RandomCropBatches(
            corpus,
            batch_size=self.datarc.train_batch_size,
            max_seconds=self.datarc.max_seconds,
            min_seconds=self.datarc.min_seconds,
            max_batch_seconds=self.datarc.max_batch_seconds,
            seed=seed,
            normalize=self.model.student.config.normalize_waveform,
            held_out=self.datarc.held_out,
            crop_lengths=self.datarc.crop_lengths,
        )
        self._matched = _Matched(0, [])
        self._running_errors: Tensor | None = None  # (teacher layers, student layers), per frame, over all processes
        self._step_errors: list[Tensor] = []  # one per micro-batch of this process, summed over frames
        self.to(self.device)

    def begin_step(self, step: int, total_steps: int, batches: list[Batch]) -> None:
        """Put the masks of optimiser step `step` (1-based) into the student, for all its micro-batches."""
        self.fill_masks(step, total_steps, self._losses)
        frames = torch.tensor(sum(self._num_valid(*batch) for batch in batches))  # on the CPU: no wait for a GPU
        self._matched = _Matched(int(distributed.all_reduce_sum(frames)), self.model.distillation.pairs)
        if self.model.distillation.pairs is None:
            if self._running_errors is None:  # the first step uses its own errors
                # with the same dropout as in the forward passes
                devices = [self.device] if self.device.type == "cuda" else []
                with torch.no_grad(), torch.random.fork_rng(devices):
                    self._step_errors = [self._errors(*self._states(*batch)) for batch in batches]
                self._join_errors()
            assert self._running_errors is not None
            self._matched.running_errors = HostCopy(self._running_errors)
            self._draw.ask_existing()

    def _pairs(self) -> Pairs:
        """Pairs of the step. Called once its forward passes are queued, so that a GPU has work during the wait."""
        matched = self._matched
        if matched.pairs is None:
            assert matched.running_errors is not None
            matched.pairs = match_layers(matched.running_errors.get().tolist(), self._draw.existing_layers())
        return matched.pairs

    def forward(self, data: Batch, records: dict[str, float | Tensor], global_step: int = 0) -> Tensor:
        """Distillation loss of one micro-batch, divided by the global batch's frames; micro-batch losses add up.

        Args:
            data: wavs (B, S) float32 and lengths (B,) int64.
            records: gets the terms of the loss, by name.
            global_step: s3prl's interface; not used.

        Returns:
            A scalar.
        """
        distillation = self.model.distillation
        student, teacher, valid = self._states(*data)
        if distillation.pairs is None:
            self._step_errors.append(self._errors(student, teacher, valid))
        pairs = self._pairs()
        errors = distillation(student, teacher, valid, pairs) / self._matched.global_frames
        loss = errors.sum()
        names = [*(f"distill_layer_{distillation.teacher_layers[k]}" for k, _ in pairs), "distill"]
        add_records(records, zip(names, (*errors.detach().unbind(), loss.detach()), strict=True))
        return loss

    def end_backward(self, records: dict[str, float | Tensor], *, loss_scale: Tensor | float = 1.0) -> None:
        """Finish the step after all backward passes: as `Expert.end_backward`, and update the running errors."""
        super().end_backward(records, loss_scale=loss_scale)
        if self._step_errors:
            self._join_errors()

    def _join_errors(self) -> None:
        """Add the step's errors over all processes to the running errors, unless they are not finite."""
        errors = distributed.all_reduce_sum(torch.stack(self._step_errors).sum(0)) / self._matched.global_frames
        self._step_errors = []
        before = errors if self._running_errors is None else self._running_errors
        joined = before.lerp(errors, 1 - RUNNING_SHARE)
        self._running_errors = torch.where(joined.isfinite(), joined, before)

    def judge(self, draw: MaskDraw) -> dict[str, float]:
        """`held_out_distill`: loss per frame on held-out speech, with the pairs that match best over all of it."""
        if not self.batches.held_out:
            return {}
        distillation, layers = self.model.distillation, self.model.student.config.num_layers
        teacher_layers, pairs = len(distillation.teacher_layers), distillation.pairs
        totals = torch.zeros(teacher_layers * layers + 1, device=self.device)  # errors, and the number of frames
        for batch in self.batches.held_out_batches(distributed.rank(), distributed.world_size()):
            student, teacher, valid = self._states(*batch)
            if pairs is None:
                totals[:-1] += self._errors(student, teacher, valid).flatten()
            else:
                totals[: len(pairs)] += distillation(student, teacher, valid, pairs)
            totals[-1] += int(valid.sum())
        *errors, frames = distributed.all_reduce_sum(totals).tolist()
        if pairs is None:
            by_layer = [errors[k * layers : (k + 1) * layers] for k in range(teacher_layers)]
            errors = [by_layer[k][j] for k, j in match_layers(by_layer, draw.existing_layers())]
        return {"held_out_distill": sum(errors) / frames}

    def log_records(self, records: dict[str, Any]) -> dict[str, Any]:
        """Entries that are logged every `log_step`: records, matched pairs, and the structure that the pruner keeps."""
        teacher_layers = self.model.distillation.teacher_layers
        pairs = [[teacher_layers[k], j + 1] for k, j in self._pairs()]
        return {**records, **self.pruner.log_records(self._draw, self.model.teacher.spec), "pairs": pairs}

    def add_state_to_save(self, all_states: dict[str, Any]) -> dict[str, Any]:
        """s3prl's interface, with the errors that choose the pairs."""
        all_states["Running_Errors"] = self._running_errors
        return super().add_state_to_save(all_states)

    def load_model(self, all_states: dict[str, Any]) -> None:
        """s3prl's interface: the reverse of `add_state_to_save`."""
        super().load_model(all_states)
        errors = all_states.get("Running_Errors")  # version 0.1.0 matched each step by its own errors
        self._running_errors = None if errors is None else errors.to(self.device)

    def weights_state(self) -> dict[str, Any]:
        """As `Expert.weights_state`, with the maps or heads of the objective."""
        return {**super().weights_state(), "Distillation": self.model.distillation.state_dict()}

    def load_weights(self, states: dict[str, Any]) -> None:
        """The reverse of `weights_state`."""
        super().load_weights(states)
        self.model.distillation.load_state_dict(states["Distillation"])

    def _states(self, wavs: Tensor, lengths: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """The L + 1 states (B, T, D) of student and teacher, and the valid frames (B, T) on the CPU."""
        host_lengths = lengths if bool((lengths < wavs.shape[1]).any()) else None
        padded = None if host_lengths is None else to_device(lengths, self.device)
        wavs = self.model.teacher.one_frame_at_least(wavs)
        host_wavs, wavs = wavs, to_device(wavs, self.device)
        with torch.no_grad():
            features = self.model.teacher.feature_extractor(wavs)
            teacher = self.model.teacher(wavs, padded, features=features)
        student = self.model.student(wavs, padded, features=features if self.model.shares_features else None)
        frames = student.hidden_states[0].shape[1]
        valid = torch.arange(frames) < self.model.student.frame_lengths(host_lengths, host_wavs, frames)[:, None]
        return student.hidden_states, teacher.hidden_states, valid

    def _num_valid(self, wavs: Tensor, lengths: Tensor) -> int:
        frames = max(1, self.model.student.config.num_frames(wavs.shape[1]))
        return int(self.model.student.frame_lengths(lengths, wavs, frames).sum())

    def _errors(self, student: list[Tensor], teacher: list[Tensor], valid: Tensor) -> Tensor:
        """`LayerDistillation.errors`, (teacher layers, student layers), unless pairs are fixed."""
        assert isinstance(self.model.distillation, LayerDistillation)
        return self.model.distillation.errors(student, teacher, valid)

    def _losses(self, draw: MaskDraw, number: int, share: float) -> Iterator[Tensor]:
        """Implements `pruners.pruner.Losses`: all valid frames have equal weight; pairs are matched in each batch."""
        epoch = self.batches.batches_per_epoch
        count = max(1, round(share * epoch))
        if self.rehearsal:
            assert self.upstream_config.compress is not None
            rounds = self.upstream_config.compress.rounds
            logger.warning(
                "Each of %d rounds takes head scores from %d batches; this one from a single batch, and no estimate "
                "heeds them.", rounds, count,
            )  # fmt: skip
            count = 1
        own = range(number * epoch, number * epoch + count)[distributed.rank() :: distributed.world_size()]
        name, distillation = f"head scores, round {number + 1}", self.model.distillation
        for batch in progress(self.get_train_dataloader(own), total=len(own), desc=name, delay=5, leave=False):
            states = self._states(*batch)
            pairs = distillation.pairs
            if pairs is None:
                pairs = match_layers(self._errors(*states).tolist(), draw.existing_layers())
            yield distillation(*states, pairs).sum()


def training_corpus(datarc: DataConfig) -> Sequence[Utterance]:
    """The speech that a configuration names, or the embedded speech.

    Raises:
        UserError: no corpus is set and the embedded one lacks a named folder; or as in `open_corpus`.
    """
    if datarc.corpus is not None:
        return open_corpus(datarc.corpus, datarc.sets, audio_root=datarc.libri_root)
    root = embedded_corpus()
    if datarc.sets and not all((root / name).is_dir() for name in datarc.sets):
        raise UserError(
            f"`sets` names folders of a corpus, {list(datarc.sets)}, but no corpus is set. Add --corpus "
            "/data/LibriSpeech"
        )
    return open_corpus(root, datarc.sets)
