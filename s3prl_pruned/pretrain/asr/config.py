"""Configuration of ASR fine-tuning with pruning: `config_model.yaml`, `config_runner.yaml` (Xu et al. 2025)."""

from dataclasses import dataclass, field

from s3prl_pruned.config import UserError
from s3prl_pruned.gates.multiples import in_words
from s3prl_pruned.gates.self_pinching import SelfPinchingConfig
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.objectives.ctc import LETTERS, Characters
from s3prl_pruned.pretrain.config import DataConfig, ExpertConfig, OptimizerConfig, RunnerConfig
from s3prl_pruned.pretrain.distill.config import StudentConfig, check_target
from s3prl_pruned.sparsity.band import BandConfig


@dataclass(kw_only=True)
class CtcConfig:
    """The recogniser on the encoder's last hidden state."""

    characters: str | None = LETTERS
    """Characters of the transcripts, each once (default: LibriSpeech's letters); null takes those of the training
    transcripts."""

    dropout: float = 0.0
    """Dropout probability on the states that the head reads."""

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        if self.characters is not None:
            Characters(self.characters)
        if not 0 <= self.dropout < 1:
            raise UserError(f"`dropout` must be in [0, 1), but is {self.dropout}.")


@dataclass(kw_only=True)
class AsrModelConfig:
    """All of `config_model.yaml`. By default, 65 % of the parameters of a Base model are removed."""

    teacher: str | None = None
    """The encoder to fine-tune, named like the teacher in distillation; null is the family's Base model. `--teacher`
    sets it. It may already be pruned."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """Dropout, and the gradient of the CNN."""
    ctc: CtcConfig = field(default_factory=CtcConfig)
    """Alphabet and head."""
    self_pinching: SelfPinchingConfig | None = field(default_factory=SelfPinchingConfig)
    """Gates; null fine-tunes without pruning (the second stage of "prune, then fine-tune")."""
    sparsity: BandConfig = field(default_factory=BandConfig)
    """The band for the sparsity; ignored without gates."""

    @property
    def method(self) -> str:
        """Name of the method, for cards."""
        if self.self_pinching is None:
            return "CTC fine-tuning without pruning"
        multiple = in_words(self.self_pinching.dims_multiple)
        return "Xu et al. 2025: CTC fine-tuning with self-pinching gates in one pass, hard 0/1 masks" + multiple

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
class AsrDataConfig(DataConfig):
    """Labelled speech (`pretrain_expert: datarc:`): folders of a corpus in LibriSpeech's layout, with transcripts.

    Unlike in distillation, batches are padded, since a transcript belongs to a whole utterance. Utterances longer than
    `max_seconds` are left out.
    """

    held_out: int = field(default=0, metadata={"before": 0})
    """Always 0: `dev_sets` name the speech that is not trained on."""

    dev_sets: tuple[str, ...] | None = None
    """Folders whose word error rate is measured every `save_step` steps; null measures none."""

    test_sets: tuple[str, ...] | None = None
    """Folders whose word error rate is measured at the end with the exported model; null measures none."""

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        super().validate()
        if self.crop_lengths is not None:
            raise UserError(
                f"`crop_lengths` must be null here, but is {self.crop_lengths}: labelled utterances are not cut."
            )
        if self.held_out:
            raise UserError(f"`held_out` must be 0 here, but is {self.held_out}. Name folders in `dev_sets` instead.")
        if not self.sets:
            raise UserError("`sets` must name the folders with labelled training speech, such as [train-clean-100].")


@dataclass(kw_only=True)
class AsrExpertConfig(ExpertConfig):
    """s3prl's `pretrain_expert:` block."""

    datarc: AsrDataConfig
    """The speech to train on."""


@dataclass(kw_only=True)
class AsrOptimizerConfig(OptimizerConfig):
    """The block `optimizer:`, with a learning rate for the head."""

    head_lr: float | None = None
    """Peak learning rate of the CTC head, which is not pre-trained; same schedule as `lr`. null uses `lr`."""

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        super().validate()
        if self.head_lr is not None and self.head_lr <= 0:
            raise UserError(f"`head_lr` must be positive, but is {self.head_lr}.")


@dataclass(kw_only=True)
class AsrRunnerConfig(RunnerConfig):
    """All of `config_runner.yaml`."""

    optimizer: AsrOptimizerConfig = field(default_factory=AsrOptimizerConfig)
    """Settings of the optimisers."""
    pretrain_expert: AsrExpertConfig
    """The speech to train on."""
