"""Hidden states of audio of any length in bounded memory: the Transformer hears a chunk and some context around it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.models.components import normalize_utterances
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import EncoderConfig, StateRule

_LONGEST = 1e6
"""Seconds, eleven days."""


@dataclass(frozen=True)
class Chunks:
    """How long audio is cut.

    The CNN's output is that of the whole audio, its norm over time included. What differs from the whole is that a
    frame attends to its chunk and the context alone: `benchmarks/long_audio.py` measures how much.
    """

    seconds: float
    """Of a chunk, from which states are kept."""
    context_seconds: float = 5.0
    """On each side of a chunk, heard and not kept."""

    def __post_init__(self) -> None:
        """Raise a `UserError` for lengths that are none."""
        if not 0.1 <= self.seconds <= _LONGEST or not 0 <= self.context_seconds <= _LONGEST:
            raise UserError(
                f"chunks must be of at least 0.1 s, with a context of 0 s or more, both of at most {_LONGEST:g} s, but "
                f"are of {self.seconds} and {self.context_seconds}."
            )


def refuse_windows(config: EncoderConfig) -> None:
    """Raise a `UserError` for an encoder that has windows of its own."""
    if config.window_samples is not None:
        raise UserError(
            f"chunks must be left out for a {config.family} encoder: it cuts long audio into windows of "
            f"{config.window_samples / SAMPLE_RATE:g} s by itself."
        )


@torch.no_grad()
def encode_in_chunks(
    encoder: SpeechEncoder, wav: Tensor, chunks: Chunks, *, layer: int | None, rule: StateRule
) -> Tensor:
    """States of one utterance: (states, T, D), or of one layer (T, D).

    Args:
        encoder: in evaluation mode.
        wav: (S,) as recorded, 16 kHz, on the encoder's device and in its precision.
        chunks: how it is cut.
        layer: which of the states; None for all.
        rule: which states there are.
    """
    config = encoder.config
    assert config.max_frames is None, "`refuse_windows` has seen to it"
    wavs = wav[None]
    if config.normalize_waveform:
        wavs = normalize_utterances(wavs, None)
    wavs = encoder.one_frame_at_least(wavs)
    features = encoder.feature_extractor(wavs)  # (1, T, C)
    size, context = (
        round(seconds * SAMPLE_RATE / config.hop_samples) for seconds in (chunks.seconds, chunks.context_seconds)
    )
    num_frames, parts = features.shape[1], []
    for start in range(0, num_frames, size):
        first = max(0, start - context)
        heard = features[:, first : start + size + context]
        states = encoder.states(encoder(wavs[:, : config.frame_samples], features=heard), rule)
        kept = slice(start - first, start - first + size)
        parts.append(torch.stack([state[0, kept] for state in (states if layer is None else [states[layer]])]))
    joined = torch.cat(parts, 1)  # (states, T, D)
    return joined if layer is None else joined[0]
