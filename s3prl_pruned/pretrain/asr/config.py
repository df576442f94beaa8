"""Configuration of ASR fine-tuning with pruning: `config_model.yaml`, `config_runner.yaml` (Xu et al. 2025)."""

from dataclasses import dataclass, field

from s3prl_pruned.config import UserError
from s3prl_pruned.objectives.ctc import LETTERS, Characters
from s3prl_pruned.pretrain.config import ExpertConfig
from s3prl_pruned.pretrain.one_pass.config import DevSetsDataConfig, OnePassModelConfig, OnePassRunnerConfig


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
class AsrModelConfig(OnePassModelConfig):
    """All of `config_model.yaml`."""

    training = "CTC fine-tuning"

    ctc: CtcConfig = field(default_factory=CtcConfig)
    """Alphabet and head."""


@dataclass(kw_only=True)
class AsrDataConfig(DevSetsDataConfig):
    """Labelled speech (`pretrain_expert: datarc:`): folders of a corpus in LibriSpeech's layout, with transcripts.

    Unlike in distillation, batches are padded, since a transcript belongs to a whole utterance. Utterances longer than
    `max_seconds` are left out.
    """

    test_sets: tuple[str, ...] | None = None
    """Folders whose word error rate is measured at the end with the exported model; null measures none."""

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        super().validate()
        if self.crop_lengths is not None:
            raise UserError(
                f"`crop_lengths` must be null here, but is {self.crop_lengths}: labelled utterances are not cut."
            )


@dataclass(kw_only=True)
class AsrExpertConfig(ExpertConfig):
    """s3prl's `pretrain_expert:` block."""

    datarc: AsrDataConfig
    """The speech to train on."""


@dataclass(kw_only=True)
class AsrRunnerConfig(OnePassRunnerConfig):
    """All of `config_runner.yaml`."""

    pretrain_expert: AsrExpertConfig
    """The speech to train on."""
