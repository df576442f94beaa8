"""The pre-training expert for distillation with pruning, in s3prl's layout; whichever pruner takes parts away.

One optimiser step, as `pretrain/expert.py` says it, and here:

    begin_step       with several micro-batches, match the layers over all of them
    forward          per micro-batch: teacher, masked student, errors of the matched pairs
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s3prl_pruned import distributed
from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.data.batches import RandomCropBatches
from s3prl_pruned.data.corpus import embedded_corpus
from s3prl_pruned.data.sources import open_corpus
from s3prl_pruned.gates.attach import MaskDraw
from s3prl_pruned.objectives.distill import LayerDistillation
from s3prl_pruned.objectives.matching import match_layers
from s3prl_pruned.pretrain.config import DataConfig
from s3prl_pruned.pretrain.distill.config import ModelConfig
from s3prl_pruned.pretrain.distill.model import DistillForPretrain
from s3prl_pruned.pretrain.distill.teachers import Teacher, load_teacher
from s3prl_pruned.pretrain.expert import Expert, model_config
from s3prl_pruned.progress import progress

logger = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]
"""wavs (B, S) float32, lengths (B,) int64."""
Pairs = list[tuple[int, int]]
"""As `match_layers` gives them."""


@dataclass
class _Matched:
    """What the loss of the optimiser step under way is of."""

    global_frames: int
    pairs: Pairs | None


class UpstreamPretrainExpert(Expert):
    """s3prl's interface (`pretrain/runner.py` there): device, forward, load_model, add_state_to_save, ...

    Args:
        datarc: `DataConfig` or its dict.
        upstream_config: `ModelConfig`, its dict, or the path of a `config_model.yaml`.
        device: torch device.
        seed: of batches, masks and random teachers.
        family: what the teacher must be, one of `models.spec.FAMILIES`; None takes any.
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
        self.batches = RandomCropBatches(
            open_corpus(_corpus_root(self.datarc), self.datarc.sets, audio_root=self.datarc.libri_root),
            batch_size=self.datarc.train_batch_size,
            max_seconds=self.datarc.max_seconds,
            min_seconds=self.datarc.min_seconds,
            max_batch_seconds=self.datarc.max_batch_seconds,
            seed=seed,
            normalize=self.model.student.config.normalize_waveform,
        )
        self._matched = _Matched(0, None)
        self.to(self.device)

    def begin_step(self, step: int, total_steps: int, batches: list[Batch]) -> None:
        """Put the masks of optimiser step `step` (1-based) into the student, for all its micro-batches."""
        self.fill_masks(step, total_steps, self._losses)
        frames = torch.tensor(sum(self._num_valid(*batch) for batch in batches), device=self.device)
        self._matched = _Matched(int(distributed.all_reduce_sum(frames)), self.model.distillation.pairs)
        if self._matched.pairs is None and len(batches) > 1:  # one micro-batch is matched in its own forward pass
            with torch.no_grad():
                errors = (self._errors(*self._states(*batch)) for batch in batches)
                self._matched.pairs = self._match(sum(errors, start=torch.zeros((), device=self.device)))

    def forward(self, data: Batch, records: dict[str, float], global_step: int = 0) -> Tensor:
        """Distillation loss of one micro-batch, in units of the global batch: the micro-batches' losses add up.

        Args:
            data: wavs (B, S) float32 and lengths (B,) int64.
            records: terms are added under their names.
            global_step: s3prl's interface; not used.

        Returns:
            A scalar.
        """
        matched, distillation = self._matched, self.model.distillation
        student, teacher, valid = self._states(*data)
        if matched.pairs is None:
            matched.pairs = self._match(self._errors(student, teacher, valid))
        errors = distillation(student, teacher, valid, matched.pairs) / matched.global_frames
        for (k, _), error in zip(matched.pairs, errors.detach(), strict=True):
            name = f"distill_layer_{distillation.teacher_layers[k]}"
            records[name] = records.get(name, 0.0) + float(error)
        loss = errors.sum()
        records["distill"] = records.get("distill", 0.0) + float(loss.detach())
        return loss

    def log_records(self, records: dict[str, Any]) -> dict[str, Any]:
        """What is written every `log_step`: the records, the matched pairs, and what the pruner keeps as it stands."""
        teacher_layers = self.model.distillation.teacher_layers
        pairs = [[teacher_layers[k], j + 1] for k, j in self._matched.pairs or []]
        return {**records, **self.pruner.log_records(self._draw, self.model.teacher.spec), "pairs": pairs}

    def add_state_to_save(self, all_states: dict[str, Any]) -> dict[str, Any]:
        """s3prl's interface, with the maps or heads of the objective."""
        all_states["Distillation"] = self.model.distillation.state_dict()
        return super().add_state_to_save(all_states)

    def load_model(self, all_states: dict[str, Any]) -> None:
        """s3prl's interface: the reverse of `add_state_to_save`."""
        super().load_model(all_states)
        self.model.distillation.load_state_dict(all_states["Distillation"])

    def _states(self, wavs: Tensor, lengths: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Student's and teacher's L + 1 states (B, T, D), and which frames are valid (B, T)."""
        wavs, lengths = wavs.to(self.device), lengths.to(self.device)
        padded = lengths if bool((lengths < wavs.shape[1]).any()) else None
        with torch.no_grad():
            features = self.model.teacher.feature_extractor(wavs)
            teacher = self.model.teacher(wavs, padded, features=features)
        student = self.model.student(wavs, padded, features=features if self.model.shares_features else None)
        frames = student.hidden_states[0].shape[1]
        valid = torch.arange(frames, device=self.device) < student.frame_lengths[:, None]
        return student.hidden_states, teacher.hidden_states, valid

    def _num_valid(self, wavs: Tensor, lengths: Tensor) -> int:
        frames = int(self.model.student.config.num_frames(wavs.shape[1]))
        return int(self.model.student.frame_lengths(lengths, wavs, frames).sum())

    def _errors(self, student: list[Tensor], teacher: list[Tensor], valid: Tensor) -> Tensor:
        """`LayerDistillation.errors`, (teacher layers, student layers), where pairs are not fixed."""
        assert isinstance(self.model.distillation, LayerDistillation)
        return self.model.distillation.errors(student, teacher, valid)

    def _match(self, errors: Tensor) -> Pairs:
        """Pairs by this process's part of the errors, (teacher layers, student layers)."""
        return match_layers(distributed.all_reduce_sum(errors).tolist(), self._draw.existing_layers())

    def _losses(self, draw: MaskDraw, number: int, share: float) -> Iterator[Tensor]:
        """`pruners.pruner.Losses`: every valid frame counts alike; pairs are matched in each batch."""
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


def _corpus_root(datarc: DataConfig) -> Path:
    if datarc.corpus is not None:
        return Path(datarc.corpus)
    root = embedded_corpus()
    if datarc.sets and not all((root / name).is_dir() for name in datarc.sets):
        raise UserError(
            f"`sets` names folders of a corpus, {list(datarc.sets)}, but no corpus is given. Add --corpus "
            "/data/LibriSpeech"
        )
    return root
