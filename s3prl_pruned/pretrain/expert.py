"""Base of the experts of all objectives: masks, batches, checkpoints, and the record of the teacher.

One optimiser step, as `pretrain/trainer.py` drives it:

    begin_step            put the pruner's masks into the student; determine the divisor of the step's loss
    forward               per micro-batch: the loss
    end_backward          penalty of the sparsity; pass the gradient of the masks back to the gates
    on_before_zero_grad   after the optimiser step: clamp the gates, and remove the masks from the student
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from s3prl_pruned import distributed
from s3prl_pruned.compressors.magnitude import apply_weight_masks, load_plain_state, plain_state
from s3prl_pruned.config import from_dict, to_dict
from s3prl_pruned.data.batches import RandomCropBatches, Share
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.export.inert import inert_share
from s3prl_pruned.export.masks import FinalMasks
from s3prl_pruned.gates.attach import MaskDraw
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.pretrain.average import WeightAverage
from s3prl_pruned.pretrain.config import DataConfig
from s3prl_pruned.pretrain.distill.teachers import Teacher
from s3prl_pruned.pretrain.pruners.pruner import Losses, Pruner, Step
from s3prl_pruned.pretrain.reading import Reader
from s3prl_pruned.pretrain.recipes import MODEL_FILE, load_recipe
from s3prl_pruned.pretrain.records import precise
from s3prl_pruned.sparsity.counts import macs, parameters

T = TypeVar("T")
SECONDS_OF_MACS = 5
"""Length in seconds of the utterance for which multiply-accumulates are reported."""


class Trained(nn.Module):
    """Base of the module that an expert trains: the student with its pruner, and further parts of the objective."""

    student: SpeechEncoder
    pruner: Pruner
    gates: nn.Module
    """Gates of the pruner."""
    lagrangian: nn.Module
    """The pruner's multipliers."""


class Expert(nn.Module):
    """Base class of every `UpstreamPretrainExpert`.

    Subclasses set all attributes but `rehearsal` and `average`, name their loss, and define `begin_step`, `forward` and
    `log_records`.
    """

    loss_name: str
    """Key of the loss in the records: shown on the screen, and checked to be finite."""
    objective: str | None = None
    """Entry `Objective` of a checkpoint; None for distillation."""
    model: Trained
    device: torch.device
    seed: int
    datarc: DataConfig
    upstream_config: Any
    batches: RandomCropBatches
    speech: str
    """`speech_digest` of the corpus."""
    loaded_teacher: Teacher
    rehearsal = False
    """Set by a dry run: no pass over a large part of the data."""
    average: WeightAverage | None = None
    """Set by the trainer if the run averages its weights: the average is evaluated and exported."""
    _step: Step
    _draw: MaskDraw

    def begin_step(self, step: int, total_steps: int, batches: list[Any]) -> None:
        """Put the masks of optimiser step `step` (1-based) into the student, and determine the divisor of its loss."""
        raise NotImplementedError

    def log_records(self, records: dict[str, Any]) -> dict[str, Any]:
        """Entries that are logged every `log_step`: the records of the step, and more."""
        raise NotImplementedError

    @property
    def pruner(self) -> Pruner:
        """The pruner of the student."""
        return self.model.pruner

    @property
    def target_sparsity(self) -> float:
        """Target sparsity of the run."""
        return self.pruner.target_sparsity

    @property
    def aim(self) -> str:
        """Target of the run, in words."""
        return self.pruner.aim

    @property
    def adds_to_gradients(self) -> bool:
        """Whether `end_backward` adds to the gradients of weights in this step."""
        return self._draw.depends_on_weights

    @property
    def masks_are_learned(self) -> bool:
        """Whether the masks of this step get a gradient."""
        return self._draw.masks.flat.requires_grad

    def drop_mask_gradients(self) -> None:
        """Drop gradients of masks from a pass that does not belong to the step."""
        self._draw.masks.flat.grad = None

    def fill_masks(self, step: int, total_steps: int, losses: Losses | None = None) -> None:
        """Draw the masks of optimiser step `step` (1-based), the same on all ranks and for all its micro-batches."""
        self._step = Step(step, total_steps)
        self._draw = self.pruner.draw(self._step, losses)
        self._draw.fill(self.model.student)

    def end_backward(self, records: dict[str, float | Tensor], *, loss_scale: Tensor | float = 1.0) -> None:
        """Compute the gradients of gates and multipliers, after the backward passes of all micro-batches.

        Args:
            records: gets terms by name, as scalars on the device, which are read later.
            loss_scale: factor on the loss, a number or a scalar tensor.
        """
        penalty = self.pruner.penalty(self._step, self._draw)
        if penalty.value is not None and penalty.value.requires_grad:
            penalty.value.backward()
        if self._draw.masks.flat.requires_grad:
            self._draw.backward(distributed.all_reduce_sum(self._draw.gradient()), loss_scale=loss_scale)
        records.update(penalty.records)

    def on_before_zero_grad(self) -> None:
        """Clamp the gates and remove the masks; called after the optimiser step."""
        self.pruner.clamp()
        self._draw.empty(self.model.student)

    def judge(self, draw: MaskDraw) -> dict[str, float]:
        """Quality of the student with `draw` in its slots: one of `logging.JUDGED_BY`, or nothing."""
        raise NotImplementedError

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Evaluate the model as it would be exported now.

        Returns:
            Results of `export_figures`, and `on_target`: whether the kept structure meets the target of the run.
        """
        final = self.final_masks()
        missed = abs(final.fulfilled - self.target_sparsity)
        return {**self.export_figures(final), "on_target": missed <= self.upstream_config.sparsity.tolerance}

    @torch.no_grad()
    def export_figures(self, final: FinalMasks) -> dict[str, float]:
        """Evaluate the model as it would be exported now with these masks.

        Returns:
            Results of `judge`, `export_sparsity`, `export_parameters`, `export_macs` (for `SECONDS_OF_MACS`), and
            `inert_share`.
        """
        student, draw = self.model.student, self.pruner.final_draw(final)
        self.model.eval()
        with self._averaged():
            draw.renew()
            draw.fill(student)
            judged = self.judge(draw)
            draw.empty(student)
        self.model.train()
        return {
            **judged,
            "export_sparsity": final.sparsity,
            "export_parameters": sum(parameters(student.config, final.spec).values()),
            "export_macs": sum(macs(student.config, final.spec, SECONDS_OF_MACS * SAMPLE_RATE).values()),
            "inert_share": inert_share(final.masks, student.spec, student.config),
        }

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Use the average as the weights, if there is one."""
        if self.average is None:
            yield
            return
        with self.average.in_place():
            yield
        apply_weight_masks(self.model.student)

    def final_masks(self) -> FinalMasks:
        """The final masks for the current state of training."""
        return self.pruner.final_masks()

    def add_state_to_save(self, all_states: dict[str, Any]) -> dict[str, Any]:
        """s3prl's interface. The teacher is not saved; `Upstream_Config` names it."""
        if self.objective is not None:
            all_states["Objective"] = self.objective
        all_states.update(self.pruner.state())
        all_states.update(self.weights_state())
        if self.average is not None:
            with self._averaged():
                all_states["Average"] = self.weights_state()
        all_states["Upstream_Config"] = to_dict(self.upstream_config)
        all_states["Teacher"] = self.teacher_record()
        return all_states

    def load_model(self, all_states: dict[str, Any]) -> None:
        """s3prl's interface: the reverse of `add_state_to_save`."""
        self.pruner.load_state(all_states)
        self.load_weights(all_states)
        if self.average is not None:
            with self._averaged():
                self.load_weights(all_states["Average"])

    def weights_state(self) -> dict[str, Any]:
        """Checkpoint entries for all that the weights' optimiser trains: `Student`, and the objective's modules."""
        return {"Student": plain_state(self.model.student)}

    def load_weights(self, states: dict[str, Any]) -> None:
        """The reverse of `weights_state`."""
        load_plain_state(self.model.student, states["Student"])

    def get_train_dataloader(self, numbers: Iterable[int | Share] | None = None) -> Reader:
        """The run's micro-batches with these numbers (or parts of them), in this order; without numbers, one epoch."""
        return Reader(
            self.batches,
            range(len(self.batches)) if numbers is None else numbers,
            workers=self.datarc.workers(),
            pinned=self.device.type == "cuda",
        )

    def teacher_record(self) -> dict[str, str | None]:
        """Entries of a checkpoint about the teacher."""
        teacher = self.loaded_teacher
        return {"name": teacher.name, "sha256": teacher.sha256, "note": teacher.note}


def add_records(records: dict[str, float | Tensor], terms: Iterable[tuple[str, Tensor]]) -> None:
    """Add terms of a micro-batch to the records of the step, by name: detached scalars, which stay on their device."""
    for name, value in terms:
        records[name] = precise(records[name]) + value if name in records else value


def checkpoint_activations(student: SpeechEncoder) -> None:
    """Keep only the inputs of the CNN and of the layers for the backward pass, and compute the rest again there."""
    student.feature_extractor.keeps_activations = False
    for layer in student.layers:
        if layer.attention is not None:
            layer.attention.keeps_bias = True  # for one layer at a time
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)  # type: ignore[method-assign]  # wraps it


def model_config(source: T | dict[str, Any] | str | Path, kind: type[T]) -> T:
    """A configuration of type `kind`, from an instance, its dict, or the path of a `config_model.yaml`."""
    if isinstance(source, kind):
        return source
    if isinstance(source, dict):
        return from_dict(kind, source, "upstream_config")
    assert isinstance(source, (str, Path))
    return from_dict(kind, load_recipe(source, MODEL_FILE), str(source))
