"""Speaker verification: s3prl's head of its SUPERB task on the weighted sum of hidden states."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_pruned import compat
from s3prl_pruned.config import UserError
from s3prl_pruned.objectives.layer_sum import LayerSum

LOST_FRAMES = 14
"""Frames that the x-vector's TDNN layers take off an utterance."""
FEWEST_FRAMES = LOST_FRAMES + 2
"""Statistics pooling needs a standard deviation over time."""


@dataclass(kw_only=True)
class SpeakerHeadConfig:
    """The head (block `head:`). The defaults are those of s3prl's SUPERB task `sv_voxceleb1`."""

    input_dim: int = 512
    """Width of the linear map of the hidden states, of the x-vector's layers, and of the embedding of a speaker."""

    agg_dim: int = 1500
    """Width of the last frame-level layer, whose mean and standard deviation over time are the next layer's input."""

    scale: float = 30.0
    """Factor on the cosines (AM-Softmax's s)."""

    margin: float = 0.4
    """What is subtracted from the cosine of the right speaker (AM-Softmax's m)."""

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        for name in ("input_dim", "agg_dim"):
            if getattr(self, name) < 1:
                raise UserError(f"`{name}` must be at least 1, but is {getattr(self, name)}.")
        if self.scale <= 0:
            raise UserError(f"`scale` must be positive, but is {self.scale}.")
        if not 0 <= self.margin < 1:
            raise UserError(f"`margin` must be in [0, 1), but is {self.margin}.")


class SpeakerHead(nn.Module):
    """Weighted sum, linear map, s3prl's x-vector with statistics pooling, and its AM-Softmax.

    The modules `connector`, `model` and `objective` are those of s3prl's `DownstreamExpert`
    (`downstream/sv_voxceleb1/expert.py`), with its names.

    Args:
        num_states: hidden states of the encoder.
        state_dim: their width.
        num_speakers: speakers in training.
        config: sizes and margin.

    Raises:
        UserError: s3prl is not installed.
    """

    def __init__(self, num_states: int, state_dim: int, num_speakers: int, config: SpeakerHeadConfig):
        super().__init__()
        compat.host()
        from s3prl.downstream.sv_voxceleb1.model import AMSoftmaxLoss, Model

        self.layers = LayerSum(num_states)
        self.connector = nn.Linear(state_dim, config.input_dim)
        self.model = Model(
            input_dim=config.input_dim,
            agg_dim=config.agg_dim,
            agg_module_name="SP",
            module_name="XVector",
            utterance_module_name="UtteranceExtractor",
            hparams={"agg_dim": config.agg_dim, "dropout_p": 0.0, "batch_norm": False},
        )
        self.objective = AMSoftmaxLoss(config.input_dim, num_speakers, s=config.scale, m=config.margin)

    def forward(self, states: Sequence[Tensor], speakers: Tensor) -> Tensor:
        """AM-Softmax loss, summed over the batch: a scalar, in fp32 (or more) also under autocast.

        Args:
            states: the encoder's hidden states, (B, T, D) each, without padding; T at least `FEWEST_FRAMES`.
            speakers: (B,) int64, numbers of the speakers.
        """
        with torch.autocast(states[0].device.type, enabled=False):
            features, mask = self._features(states)
            return self.objective(self.model(features, mask), speakers) * len(speakers)

    def embed(self, states: Sequence[Tensor]) -> Tensor:
        """Embeddings of the speakers (B, E), of length 1: their products are the cosines that verification compares.

        Args:
            states: as in `forward`.
        """
        with torch.autocast(states[0].device.type, enabled=False):
            return F.normalize(self.model.inference(*self._features(states)), dim=-1)

    def _features(self, states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What s3prl's model takes: features (B, T, E), and the mask of its output frames, 0 where none is padding."""
        dtype = self.connector.weight.dtype
        features = self.connector(self.layers([state.to(dtype) for state in states]))
        return features, features.new_zeros(len(features), features.shape[1] - LOST_FRAMES)
