"""The pre-training expert for distillation with pruning (Wang et al. 2023), in s3prl's layout.

One optimiser step, as `pretrain/runner.py` drives it:

    begin_step       draw all masks once; with several micro-batches also match the layers over all of them
    forward          per micro-batch: teacher, masked student, errors of the matched pairs
    end_backward     masks' gradient through eq. 4 to log_alpha; the Lagrangian's gradient
    on_before_zero_grad   clamp log_alpha
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from s3prl_pruned import distributed
from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.data.batches import RandomCropBatches
from s3prl_pruned.data.corpus import embedded_corpus
from s3prl_pruned.data.sources import open_corpus
from s3prl_pruned.export.masks import FinalMasks, final_masks
from s3prl_pruned.gates.attach import GateSet, MaskDraw
from s3prl_pruned.gates.self_pinching import PinchedDraw, SelfPinchingGates
from s3prl_pruned.models.fast.paths import reference_path
from s3prl_pruned.objectives.matching import match_layers
from s3prl_pruned.pretrain.config import DataConfig
from s3prl_pruned.pretrain.distill.config import ModelConfig
from s3prl_pruned.pretrain.distill.model import DistillForPretrain, remaining_units
from s3prl_pruned.pretrain.distill.teachers import Teacher, load_teacher
from s3prl_pruned.pretrain.expert import Expert, model_config
from s3prl_pruned.sparsity.counts import num_frames
from s3prl_pruned.sparsity.expected import expected_sparsity
from s3prl_pruned.sparsity.lagrangian import Lagrangian
from s3prl_pruned.sparsity.latency import LatencyTable
from s3prl_pruned.sparsity.targets import Measure

Batch = tuple[Tensor, Tensor]  # wavs (B, S) float32, lengths (B,) int64


@dataclass
class _Step:
    """State of the optimiser step under way."""

    draw: MaskDraw
    target: float
    cnn_target: float
    global_frames: int
    pairs: list[tuple[int, int]] | None


class UpstreamPretrainExpert(Expert):
    """s3prl's interface (`pretrain/runner.py` there): device, forward, load_model, add_state_to_save, ...

    Args:
        datarc: `DataConfig` or its dict.
        upstream_config: `ModelConfig`, its dict, or the path of a `config_model.yaml`.
        device: torch device.
        multi_gpu: not used: DataParallel is not supported.
        seed: of batches, masks and random teachers.
        family: what the teacher must be, one of `models.spec.FAMILIES`; None takes any.
    """

    loss_name = "distill"
    """Of the records: what the screen shows, and what must be finite."""
    make_model = DistillForPretrain

    def __init__(self, datarc, upstream_config, device="cuda", multi_gpu: bool = False, *, seed: int = 0, family: str | None = None, **kwargs):
        super().__init__()
        self.device = torch.device(device)
        self.seed = seed
        self.datarc = datarc if isinstance(datarc, DataConfig) else from_dict(DataConfig, datarc, "datarc")
        self.upstream_config = model_config(upstream_config, ModelConfig)
        self.loaded_teacher: Teacher = load_teacher(self.upstream_config.teacher, seed, family=family)
        self.model = self.make_model(self.loaded_teacher.encoder, self.upstream_config)
        self.batches = RandomCropBatches(
            open_corpus(_corpus_root(self.datarc), self.datarc.sets, audio_root=self.datarc.libri_root),
            batch_size=self.datarc.train_batch_size,
            max_seconds=self.datarc.max_seconds,
            min_seconds=self.datarc.min_seconds,
            max_batch_seconds=self.datarc.max_batch_seconds,
            seed=seed,
            normalize=self.model.student.config.normalize_waveform,
        )
        self._step: _Step | None = None
        self.to(self.device)

    @property
    def target_sparsity(self) -> float:
        """What the run is to reach."""
        return self.upstream_config.sparsity.target_sparsity

    @property
    def aim(self) -> str:
        """What the run is to reach, in words."""
        config = self.upstream_config.sparsity
        if config.target_speedup is not None:
            aim = f"target speed-up {config.target_speedup:.4g} by {config.latency_table}"
        elif config.target_macs is not None:
            aim = f"target {100 * config.target_macs:.4g} % fewer MACs for {config.utterance_seconds:g} s"
        else:
            aim = f"target sparsity {self.target_sparsity:.4g}"
        of = "fewer MACs in" if config.latency_table is None else "less time for"
        return aim if config.target_cnn is None else f"{aim}, {100 * config.target_cnn:.4g} % {of} the CNN"

    def begin_step(self, step: int, total_steps: int, batches: list[Batch]) -> None:
        """Draw the masks of optimiser step `step` (1-based), the same on every rank, for all its micro-batches."""
        draw = self._draw(step, total_steps)
        draw.fill(self.model.student)
        frames = torch.tensor(sum(self._num_valid(*batch) for batch in batches), device=self.device)
        self._step = _Step(
            draw=draw,
            target=self.upstream_config.sparsity.target_at(step, total_steps),
            cnn_target=self.upstream_config.sparsity.target_at(step, total_steps, self.upstream_config.sparsity.target_cnn or 0.0),
            global_frames=int(distributed.all_reduce_sum(frames)),
            pairs=self.model.distillation.pairs,
        )
        if self._step.pairs is None and len(batches) > 1:  # one micro-batch is matched in its own forward pass
            with torch.no_grad():
                self._step.pairs = self._match(sum(self._errors(*self._states(*batch)) for batch in batches))

    def _draw(self, step: int, total_steps: int) -> MaskDraw:
        gates = self.model.gates
        if isinstance(gates, SelfPinchingGates):
            return gates.draw(self.model.student, gates.config.temperature_at(step, total_steps))
        return gates.draw(torch.Generator().manual_seed(self.seed * 1_000_003 + step))

    def forward(self, data: Batch, records: dict[str, float], global_step: int = 0, **kwargs) -> Tensor:
        """Distillation loss of one micro-batch, in units of the global batch: the micro-batches' losses add up.

        Args:
            data: wavs (B, S) float32 and lengths (B,) int64.
            records: terms are added under their names.
        """
        step = self._step
        student, teacher, valid = self._states(*data)
        if step.pairs is None:
            step.pairs = self._match(self._errors(student, teacher, valid))
        errors = self.model.distillation(student, teacher, valid, step.pairs) / step.global_frames
        for (k, _), error in zip(step.pairs, errors.detach(), strict=True):
            name = f"distill_layer_{self.model.distillation.teacher_layers[k]}"
            records[name] = records.get(name, 0.0) + float(error)
        loss = errors.sum()
        records["distill"] = records.get("distill", 0.0) + float(loss.detach())
        return loss

    def end_backward(self, records: dict[str, float], *, loss_scale: float = 1.0) -> None:
        """After all micro-batches' backward passes: the gradients of gates and multipliers.

        Args:
            records: terms are added under their names.
            loss_scale: what the distillation loss was multiplied with.
        """
        step, model = self._step, self.model
        counted = step.draw if isinstance(step.draw, PinchedDraw) else model.gates  # the hard count, or the expected
        if model.cnn_measure:
            self._hold(model.cnn_measure, model.lagrangian.cnn, counted, step.cnn_target, records)
        penalty = self._hold(model.measure, model.lagrangian, counted, step.target, records)
        step.draw.backward(distributed.all_reduce_sums(step.draw.gradients()), loss_scale=loss_scale)
        if model.measure.name != "sparsity":
            with torch.no_grad():
                records["expected_sparsity"] = float(expected_sparsity(counted, model.student.config))
        records.update(
            sparsity_penalty=float(penalty.detach()),
            lambda1=float(model.lagrangian.lambda1.detach()),
            lambda2=float(model.lagrangian.lambda2.detach()),
        )

    @staticmethod
    def _hold(measure: Measure, lagrangian: Lagrangian, counted: GateSet | PinchedDraw, target: float, records: dict) -> Tensor:
        """The penalty of what is `counted` against its target, after its backward pass."""
        expected = measure.expected(counted)
        penalty = lagrangian(expected, target)
        penalty.backward()
        records.update(
            {f"expected_{measure.name}": measure.shown(float(expected.detach())), f"target_{measure.name}": measure.shown(target)}
        )
        return penalty

    def on_before_zero_grad(self) -> None:
        """After the optimisers' step."""
        self.model.gates.clamp()
        self._step.draw.empty(self.model.student)

    def evaluate(self) -> dict[str, float]:
        """Nothing: what a task-agnostic student is worth, its downstream tasks say."""
        return {}

    def log_records(self, records: dict) -> dict:
        """What is written every `log_step`: the records, the matched pairs, the mask averages of Figure 3a, and what
        the gates keep as they stand, overall and as shares of each layer's units (by the bare rounding rule: the target
        of the moment is not the run's). What the target is of is realised_macs or realised_speedup, where not sparsity."""
        teacher_layers = self.model.distillation.teacher_layers
        pairs = [[teacher_layers[k], j + 1] for k, j in self._step.pairs]
        masks = self._step.draw.averages()
        config = replace(self.upstream_config.sparsity, match_target=False)
        measure = self.model.measure
        kept = final_masks(self.model.gates, self.model.student, config, self._latency_table())
        remaining = remaining_units(kept.spec, self.model.student.spec)
        if kept.conv_masks:
            remaining["channels"] = [float((z != 0).float().mean()) for z in kept.conv_masks.values()]
        realised = {"realised_sparsity": kept.sparsity, f"realised_{measure.name}": measure.shown(kept.reached)}
        return {**records, **realised, "pairs": pairs, "mask_means": masks, "remaining": remaining}

    def final_masks(self) -> FinalMasks:
        """The deterministic masks as the gates stand."""
        return final_masks(self.model.gates, self.model.student, self.upstream_config.sparsity, self._latency_table())

    def add_state_to_save(self, all_states: dict) -> dict:
        """s3prl's interface. The teacher is not saved; `Upstream_Config` says which it was."""
        all_states["Student"] = self.model.student.state_dict()
        all_states["Distillation"] = self.model.distillation.state_dict()
        all_states["Gates"] = self.model.gates.state_dict()
        all_states["Lagrangian"] = self.model.lagrangian.state_dict()
        all_states["Encoder_Config"] = to_dict(self.model.student.config)
        all_states["Spec"] = self.model.student.spec.to_dict()
        all_states["Upstream_Config"] = to_dict(self.upstream_config)
        all_states["Teacher"] = self.teacher_record()
        if (table := self._latency_table()) is not None:
            all_states["Latency_Table"] = to_dict(table)  # a checkpoint is exported where its file may not be
        return all_states

    def _latency_table(self) -> LatencyTable | None:
        measures = (getattr(self.model, name, None) for name in ("measure", "cnn_measure"))
        return next((measure.table for measure in measures if measure and measure.table), None)

    def load_model(self, all_states: dict) -> None:
        """s3prl's interface: the reverse of `add_state_to_save`."""
        table = self._latency_table()
        if all_states.get("Latency_Table") != (table and to_dict(table)):
            raise UserError(
                f"{self.upstream_config.sparsity.latency_table}: holds other times than this run was started with. Put the old "
                "table back, or start another run (-n NAME)."
            )
        self.model.student.load_state_dict(all_states["Student"])
        self.model.distillation.load_state_dict(all_states["Distillation"])
        self.model.gates.load_state_dict(all_states["Gates"])
        self.model.lagrangian.load_state_dict(all_states["Lagrangian"])

    def _states(self, wavs: Tensor, lengths: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        wavs, lengths = wavs.to(self.device), lengths.to(self.device)
        padded = lengths if bool((lengths < wavs.shape[1]).any()) else None
        with torch.no_grad(), reference_path():
            features = self.model.teacher.feature_extractor(wavs)
            teacher = self.model.teacher(wavs, padded, features=features)
        student = self.model.student(wavs, padded, features=features if self.model.shares_features else None)
        frames = student.hidden_states[0].shape[1]
        valid = torch.arange(frames, device=self.device) < student.frame_lengths[:, None]
        return student.hidden_states, teacher.hidden_states, valid

    def _num_valid(self, wavs: Tensor, lengths: Tensor) -> int:
        frames = num_frames(self.model.student.config, wavs.shape[1])
        return int(self.model.student.frame_lengths(lengths, wavs, frames).sum())

    def _errors(self, student: list[Tensor], teacher: list[Tensor], valid: Tensor) -> Tensor:
        return self.model.distillation.errors(student, teacher, valid)

    def _match(self, errors: Tensor) -> list[tuple[int, int]]:
        errors = distributed.all_reduce_sum(errors)
        return match_layers(errors.tolist(), self._step.draw.existing_layers())


def _corpus_root(datarc: DataConfig) -> Path:
    if datarc.corpus is not None:
        return Path(datarc.corpus)
    root = embedded_corpus()
    if datarc.sets and not all((root / name).is_dir() for name in datarc.sets):
        raise UserError(
            f"`sets` names folders of a corpus, {list(datarc.sets)}, but no corpus is given. Add --corpus /data/LibriSpeech"
        )
    return root
