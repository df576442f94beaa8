"""Configuration that all tasks of one-pass pruning share: encoder, gates, target, and the optimiser's rates."""

from dataclasses import dataclass, field
from typing import ClassVar

from s3prl_pruned.config import UserError
from s3prl_pruned.gates.multiples import in_words
from s3prl_pruned.gates.self_pinching import SelfPinchingConfig
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.pretrain.config import DataConfig, OptimizerConfig, RunnerConfig
from s3prl_pruned.pretrain.distill.config import StudentConfig, check_target
from s3prl_pruned.sparsity.band import BandConfig


@dataclass(kw_only=True)
class OnePassModelConfig:
    """The part of `config_model.yaml` that does not depend on the task.

    By default, 65 % of the parameters of a Base model are removed.
    """

    training: ClassVar[str]
    """The training of the task, such as "CTC fine-tuning", for cards."""

    teacher: str | None = None
    """The encoder to fine-tune, named like the teacher in distillation; null is the family's Base model. `--teacher`
    sets it. It may already be pruned."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """Dropout, and the gradient of the CNN."""
    self_pinching: SelfPinchingConfig | None = field(default_factory=SelfPinchingConfig)
    """Gates; null fine-tunes without pruning (the second stage of "prune, then fine-tune")."""
    sparsity: BandConfig = field(default_factory=BandConfig)
    """The band for the sparsity; ignored without gates."""

    @property
    def method(self) -> str:
        """Name of the method, for cards."""
        if self.self_pinching is None:
            return f"{self.training} without pruning"
        multiple = in_words(self.self_pinching.dims_multiple)
        return f"Xu et al. 2025: {self.training} with self-pinching gates in one pass, hard 0/1 masks" + multiple

    @property
    def advice(self) -> str:
        """Advice for a target that was missed."""
        return "Train longer, or raise sparsity.size_weight or optimizer.gate_lr."

    def check_target(self, encoder: EncoderConfig, spec: CompactSpec) -> None:
        """Raise UserError if gates cannot meet target and multiples on an encoder with the structure `spec`."""
        if self.self_pinching is not None:
            self.self_pinching.check_multiple(spec, encoder)
            check_target(self.sparsity.goal, self.self_pinching, encoder, spec)


@dataclass(kw_only=True)
class DevSetsDataConfig(DataConfig):
    """Labelled speech of a task whose dev speech is in folders of its own, so that nothing else is held out."""

    held_out: int = field(default=0, metadata={"before": 0})
    """Always 0: `dev_sets` name the speech that is not trained on."""

    dev_sets: tuple[str, ...] | None = None
    """Folders whose error rate is measured every `save_step` steps; null measures none."""

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        super().validate()
        if self.held_out:
            raise UserError(f"`held_out` must be 0 here, but is {self.held_out}. Name folders in `dev_sets` instead.")
        if not self.sets:
            raise UserError(
                "`sets` must name the folders with labelled training speech, such as [train-clean-100] of LibriSpeech."
            )


@dataclass(kw_only=True)
class OnePassOptimizerConfig(OptimizerConfig):
    """The block `optimizer:`, with a learning rate for the head."""

    head_lr: float | None = None
    """Peak learning rate of the task's head, which is not pre-trained; same schedule as `lr`. null uses `lr`."""

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        super().validate()
        if self.head_lr is not None and self.head_lr <= 0:
            raise UserError(f"`head_lr` must be positive, but is {self.head_lr}.")


@dataclass(kw_only=True)
class OnePassRunnerConfig(RunnerConfig):
    """All of `config_runner.yaml` but the speech, which depends on the task."""

    optimizer: OnePassOptimizerConfig = field(default_factory=OnePassOptimizerConfig)
    """Settings of the optimisers."""
