"""Configuration of fine-tuning for diarisation with pruning: `config_model.yaml`, `config_runner.yaml`."""

from dataclasses import dataclass, field

from s3prl_pruned.objectives.diarization import DiarizationHeadConfig
from s3prl_pruned.pretrain.config import ExpertConfig
from s3prl_pruned.pretrain.one_pass.config import DevSetsDataConfig, OnePassModelConfig, OnePassRunnerConfig


@dataclass(kw_only=True)
class SdModelConfig(OnePassModelConfig):
    """All of `config_model.yaml`."""

    training = "fine-tuning for speaker diarisation (LSTM, permutation-invariant loss)"

    head: DiarizationHeadConfig = field(default_factory=DiarizationHeadConfig)
    """s3prl's head."""


@dataclass(kw_only=True)
class SdDataConfig(DevSetsDataConfig):
    """Mixtures with segments (`pretrain_expert: datarc:`): folders in Kaldi's format, as s3prl's LibriMix makes them.

    A folder of `sets` holds `wav.scp` (recording, path), `segments` (utterance, recording, start, end) and `utt2spk`
    (utterance, speaker). Relative paths start from the folder. Those of `dev_sets` are judged by s3prl's error rate
    over frames, `dev_frame_der`. The defaults are those of s3prl's SUPERB task: 8 recordings of at most 2000 frames.
    Recordings are cropped, as in distillation.
    """

    train_batch_size: int = 8
    """Recordings per micro-batch."""

    max_seconds: float = 40.0
    """Longer recordings are cropped at random to this length in seconds."""


@dataclass(kw_only=True)
class SdExpertConfig(ExpertConfig):
    """s3prl's `pretrain_expert:` block."""

    datarc: SdDataConfig
    """The speech to train on."""


@dataclass(kw_only=True)
class SdRunnerConfig(OnePassRunnerConfig):
    """All of `config_runner.yaml`."""

    pretrain_expert: SdExpertConfig
    """The speech to train on."""
