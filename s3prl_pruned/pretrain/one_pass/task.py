"""Interface of a task whose labels train an encoder while it is pruned: data, head, loss, and what judges it."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from s3prl_pruned.data.batches import RandomCropBatches
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.pretrain.config import DataConfig
from s3prl_pruned.pretrain.one_pass.config import OnePassModelConfig

Data = TypeVar("Data", bound=DataConfig)
Model = TypeVar("Model", bound=OnePassModelConfig)


class OnePassTask(ABC, Generic[Data, Model]):
    """One task. `OnePassExpert` does everything else: gates, penalty, checkpoints, evaluation, export.

    Args:
        datarc: the speech and its labels, which are read here.
        config: settings of the model.
        seed: seed of the batches.

    Raises:
        UserError: speech or labels cannot be used.
    """

    name: ClassVar[str]
    """The task in `-u <family>_pruned_<name>`, and the entry `Objective` of a checkpoint."""
    loss_name: ClassVar[str]
    """Key of the loss in the records."""
    data_kind: ClassVar[type[DataConfig]]
    """Class of the block `datarc:`."""
    model_kind: ClassVar[type[OnePassModelConfig]]
    """Class of `config_model.yaml`."""
    speech: str
    """Digest of speech and labels (`data.manifest.speech_digest`)."""

    @abstractmethod
    def __init__(self, datarc: Data, config: Model, *, seed: int): ...

    @abstractmethod
    def head(self, shape: EncoderConfig) -> nn.Module:
        """A new head for an encoder; its weights are drawn from torch's generator."""

    @abstractmethod
    def batches(self, shape: EncoderConfig) -> RandomCropBatches:
        """The training batches for an encoder: tuples of tensors (B, ...), waveforms and lengths first."""

    @abstractmethod
    def num_units(self, batch: tuple[Tensor, ...]) -> int:
        """Number of units in a batch over which the loss of a step is a mean: characters, utterances, frames."""

    @abstractmethod
    def loss(self, student: SpeechEncoder, head: nn.Module, batch: tuple[Tensor, ...], device: torch.device) -> Tensor:
        """The loss of a batch, summed over its units: a scalar in fp32."""

    @abstractmethod
    def judge(self, student: SpeechEncoder, head: nn.Module) -> dict[str, float]:
        """One of `logging.JUDGED_BY` for a model in evaluation mode, the same in all processes; or nothing."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Entries of a checkpoint that the files of the head need."""
