"""Speaker diarisation: s3prl's LSTM of its SUPERB task on the weighted sum of hidden states, and its errors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from s3prl_pruned import compat
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.objectives.layer_sum import LayerSum

MOST_SPEAKERS = 6
"""The loss tries all permutations: 720 for 6 speakers."""


@dataclass(kw_only=True)
class DiarizationHeadConfig:
    """The head (block `head:`). The defaults are those of s3prl's SUPERB task `diarization`."""

    num_speakers: int = 2
    """Speakers that the head tells apart; no recording may have more."""

    rnn_layers: int = 1
    """LSTM layers; 0 is a linear map only."""

    hidden_size: int = 512
    """Width of the LSTM."""

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        if not 1 <= self.num_speakers <= MOST_SPEAKERS:
            raise UserError(f"`num_speakers` must be from 1 to {MOST_SPEAKERS}, but is {self.num_speakers}.")
        if self.rnn_layers < 0:
            raise UserError(f"`rnn_layers` must be at least 0, but is {self.rnn_layers}.")
        if self.hidden_size < 1:
            raise UserError(f"`hidden_size` must be at least 1, but is {self.hidden_size}.")


class DiarizationHead(nn.Module):
    """Weighted sum, and s3prl's LSTM and linear map (`downstream/diarization/model.py`).

    Args:
        num_states: hidden states of the encoder.
        state_dim: their width.
        config: number of speakers and sizes.

    Raises:
        UserError: s3prl is not installed.
    """

    def __init__(self, num_states: int, state_dim: int, config: DiarizationHeadConfig):
        super().__init__()
        compat.host()
        from s3prl.downstream.diarization.model import Model

        self.layers = LayerSum(num_states)
        self.model = Model(
            input_dim=state_dim,
            output_class_num=config.num_speakers,
            rnn_layers=config.rnn_layers,
            hidden_size=config.hidden_size,
        )

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Logits (B, T, speakers) of activity, in fp32 also under autocast.

        Args:
            states: the encoder's hidden states, (B, T, D) each, without padding.
        """
        with torch.autocast(states[0].device.type, enabled=False):
            return self.model(self.layers([state.float() for state in states]))


def permutation_invariant_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy for the best order of the speakers, mean over speakers, summed over frames: a scalar.

    This is s3prl's `pit_loss` times the number of frames.

    Args:
        logits: (B, T, speakers), without padding.
        labels: (B, T, speakers) float, 1 where a speaker is active.
    """
    from s3prl.downstream.diarization.utils import pit_loss

    num_frames = torch.full((len(logits),), logits.shape[1])
    loss, _, _ = pit_loss(logits, labels, num_frames)
    return loss * num_frames.sum()


def frame_errors(logits: Tensor, labels: Tensor) -> tuple[int, int]:
    """Wrong and all frames of speakers, for the order with the least loss: their quotient is s3prl's frame DER.

    A frame counts once for each of its speakers; missed, falsely found and confused speakers are wrong.

    Args:
        logits: as in `permutation_invariant_loss`.
        labels: as in `permutation_invariant_loss`.
    """
    from s3prl.downstream.diarization.utils import calc_diarization_error, get_label_perm, pit_loss

    num_frames = torch.full((len(logits),), logits.shape[1])
    _, best, orders = pit_loss(logits, labels, num_frames)
    *_, scored, missed, false, confused = calc_diarization_error(
        logits, get_label_perm(labels, best, orders), num_frames
    )
    return round(missed + false + confused), round(scored)


def frame_labels(
    segments: Iterable[tuple[int, float, float]], *, start: int, num_frames: int, hop_samples: int, num_speakers: int
) -> Tensor:
    """Who is active in which frame of a crop: (T, speakers) float, 0 or 1.

    A segment covers the frames from its start to its end, both rounded to the nearest frame, as in s3prl.

    Args:
        segments: speaker, start and end in seconds, from the start of the recording.
        start: first sample of the crop.
        num_frames: T.
        hop_samples: samples from one frame to the next.
        num_speakers: number of columns.
    """
    labels = torch.zeros(num_frames, num_speakers)
    for speaker, *times in segments:
        first, last = (max(0, int(np.rint((time * SAMPLE_RATE - start) / hop_samples))) for time in times)
        labels[first:last, speaker] = 1
    return labels
