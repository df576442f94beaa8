"""Speaker verification: s3prl's head of its SUPERB task on the weighted sum of hidden states, and the EER."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
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


def equal_error_rate(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The error rate at the threshold where the false acceptance rate equals the false rejection rate, a fraction.

    The benchmark's definition (s3prl's ``sv_voxceleb1/utils.py``): the point of the receiver operating characteristic,
    linear between its points, where the false acceptance rate equals the false rejection rate.

    Args:
        labels: N trials, 1 where both utterances are from the same speaker, else 0.
        scores: N; a higher score means more likely the same speaker. Equal scores are accepted together.
        weights: N; how often each trial counts, above 0; None: once.

    Raises:
        UserError: if the lengths differ, a score is not finite, a label is not 0 or 1, or one of the labels is missing.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.shape != scores.shape or labels.ndim != 1:
        raise UserError(f"EER: labels and scores must have one length, but have {labels.shape} and {scores.shape}.")
    if not np.isfinite(scores).all():
        raise UserError(f"EER: every score must be finite, but {(~np.isfinite(scores)).sum()} are not.")
    if not np.array_equal(np.unique(labels), [0, 1]):
        raise UserError(f"EER: labels must be 0 and 1, and both must occur, but they are {np.unique(labels)[:5]}.")
    order = np.argsort(-scores, kind="stable")
    descending, is_target = scores[order], labels[order] == 1
    times = np.ones(len(order)) if weights is None else np.asarray(weights, dtype=float)[order]
    targets, others = times * is_target, times * ~is_target
    last = np.append(descending[1:] != descending[:-1], True)
    # From accepting nothing to accepting everything.
    accepted = np.append(0, np.cumsum(others)[last]) / others.sum()
    rejected = 1 - np.append(0, np.cumsum(targets)[last]) / targets.sum()
    gap = rejected - accepted  # falls strictly from 1 to -1
    after = int(np.argmax(gap <= 0))
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(accepted[after - 1] + share * (accepted[after] - accepted[after - 1]))
