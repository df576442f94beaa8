"""Configuration of fine-tuning for speaker verification with pruning: `config_model.yaml`, `config_runner.yaml`."""

from dataclasses import dataclass, field

from s3prl_pruned.config import UserError
from s3prl_pruned.objectives.verification import SpeakerHeadConfig
from s3prl_pruned.pretrain.config import DataConfig, ExpertConfig
from s3prl_pruned.pretrain.one_pass.config import OnePassModelConfig, OnePassRunnerConfig

HELD_OUT_PER_SPEAKER = 4


@dataclass(kw_only=True)
class SvModelConfig(OnePassModelConfig):
    """All of `config_model.yaml`."""

    training = "fine-tuning for speaker verification (x-vector, AM-Softmax)"

    head: SpeakerHeadConfig = field(default_factory=SpeakerHeadConfig)
    """s3prl's head."""


@dataclass(kw_only=True)
class SvDataConfig(DataConfig):
    """Speech with speakers (`pretrain_expert: datarc:`): `<set>/<speaker>/<session>/<utterance>`, as in VoxCeleb1.

    Utterances are cropped, as in distillation. The defaults are those of s3prl's SUPERB task: 10 utterances of at most
    8 s. Its SoX effects (gain, removal of silence) are not applied.
    """

    train_batch_size: int = 10
    """Utterances per micro-batch."""

    max_seconds: float = 8.0
    """Longer utterances are cropped at random to this length in seconds."""

    min_seconds: float = 2.0
    """Shorter utterances (in seconds) are left out."""

    held_out: int = 320
    """Number of utterances that are not trained on, four for each of as many speakers as are needed (fewer if there
    are not that many, and never more than half of a speaker's). At every checkpoint, `held_out_eer` is the equal error
    rate over all pairs of them. The speakers are trained on, so it is lower than that of unknown speakers."""

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        super().validate()
        if self.held_out and self.held_out < 2 * HELD_OUT_PER_SPEAKER:
            raise UserError(
                f"`held_out` must be 0, or at least {2 * HELD_OUT_PER_SPEAKER}: {HELD_OUT_PER_SPEAKER} utterances of "
                f"each of two speakers. It is {self.held_out}."
            )


@dataclass(kw_only=True)
class SvExpertConfig(ExpertConfig):
    """s3prl's `pretrain_expert:` block."""

    datarc: SvDataConfig = field(default_factory=SvDataConfig)
    """The speech to train on."""


@dataclass(kw_only=True)
class SvRunnerConfig(OnePassRunnerConfig):
    """All of `config_runner.yaml`."""

    pretrain_expert: SvExpertConfig = field(default_factory=SvExpertConfig)
    """The speech to train on."""
