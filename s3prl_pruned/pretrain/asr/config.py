"""What `config_model.yaml` and `config_runner.yaml` may hold for ASR fine-tuning with pruning (Xu et al. 2025)."""

from dataclasses import dataclass, field

from s3prl_pruned.config import UserError
from s3prl_pruned.gates.multiples import in_words
from s3prl_pruned.gates.self_pinching import SelfPinchingConfig
from s3prl_pruned.models.spec import CompactSpec, EncoderConfig
from s3prl_pruned.objectives.ctc import LETTERS, Characters
from s3prl_pruned.pretrain.config import DataConfig, ExpertConfig, OptimizerConfig, RunnerConfig
from s3prl_pruned.pretrain.distill.config import StudentConfig, check_target
from s3prl_pruned.sparsity.band import BandConfig


@dataclass(kw_only=True)
class CtcConfig:
    """The recogniser on top of the encoder's last hidden state."""

    characters: str | None = LETTERS
    """What can be written, each character once (default: LibriSpeech's letters); null takes what the training
    transcripts hold."""

    dropout: float = 0.0
    """Of the states that the head reads."""

    def validate(self) -> None:
        """Raise UserError where a value is out of its range."""
        if self.characters is not None:
            Characters(self.characters)
        if not 0 <= self.dropout < 1:
            raise UserError(f"`dropout` must be in [0, 1), but is {self.dropout}.")


@dataclass(kw_only=True)
class AsrModelConfig:
    """The whole of `config_model.yaml`. Defaults: -65 % of the parameters of a Base model."""

    teacher: str | None = None
    """The encoder that is fine-tuned: as in distillation, where it is the teacher too; null is the family's Base model.
    `--teacher` sets it. It may be pruned already."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """Dropout and the CNN's gradient."""
    ctc: CtcConfig = field(default_factory=CtcConfig)
    """Alphabet and head."""
    self_pinching: SelfPinchingConfig | None = field(default_factory=SelfPinchingConfig)
    """Gates; null fine-tunes without pruning (the second stage of prune-then-fine-tune)."""
    sparsity: BandConfig = field(default_factory=BandConfig)
    """The band that the sparsity is held in; without gates it is not looked at."""

    @property
    def method(self) -> str:
        """For cards."""
        if self.self_pinching is None:
            return "CTC fine-tuning, nothing pruned by it"
        multiple = in_words(self.self_pinching.dims_multiple)
        return "Xu et al. 2025: CTC fine-tuning with self-pinching gates in one pass, hard 0/1 masks" + multiple

    @property
    def advice(self) -> str:
        """How to come nearer to a target that was missed."""
        return "Train longer, or raise sparsity.size_weight or optimizer.gate_lr."

    def check_target(self, encoder: EncoderConfig, spec: CompactSpec) -> None:
        """Raise UserError when the gates cannot end as they are to on an encoder of which `spec` is left."""
        if self.self_pinching is not None:
            self.self_pinching.check_multiple(spec, encoder)
            check_target(self.sparsity.goal, self.self_pinching, encoder, spec)


@dataclass(kw_only=True)
class AsrDataConfig(DataConfig):
    """Labelled speech (`pretrain_expert: datarc:`): folders of a corpus in LibriSpeech's layout, with transcripts.

    Batches are padded here, since a transcript belongs to a whole utterance: those longer than `max_seconds` are left
    out.
    """

    held_out: int = field(default=0, metadata={"before": 0})
    """Nothing: `dev_sets` are what is not trained on."""

    dev_sets: tuple[str, ...] | None = None
    """Folders whose word error rate is measured at every `save_step`; null measures none."""

    test_sets: tuple[str, ...] | None = None
    """Folders whose word error rate is measured at the end, with the exported model; null measures none."""

    def validate(self) -> None:
        """Raise UserError where a value is out of its range."""
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
    """The data."""


@dataclass(kw_only=True)
class AsrOptimizerConfig(OptimizerConfig):
    """`optimizer:`, with a pace for the head."""

    head_lr: float | None = None
    """Peak learning rate of the CTC head, which starts from nothing, on `lr`'s schedule; null is `lr`."""

    def validate(self) -> None:
        """Raise UserError where a value is out of its range."""
        super().validate()
        if self.head_lr is not None and self.head_lr <= 0:
            raise UserError(f"`head_lr` must be positive, but is {self.head_lr}.")


@dataclass(kw_only=True)
class AsrRunnerConfig(RunnerConfig):
    """The whole of `config_runner.yaml`."""

    optimizer: AsrOptimizerConfig = field(default_factory=AsrOptimizerConfig)
    """The optimisers."""
    pretrain_expert: AsrExpertConfig
    """The data."""
