"""Hidden states of audio of any length in bounded memory: the Transformer gets chunks with some context around them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.models.components import normalize_utterances
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.state_rule import StateRule

_LONGEST = 1e6
"""Largest length in seconds, eleven days."""


@dataclass(frozen=True)
class Chunks:
    """Lengths of the chunks that audio is cut into.

    The CNN runs over the whole audio, including its norm over time. The difference from encoding the whole is that
    frames only attend to their chunk and its context: `benchmarks/long_audio.py` measures its size.
    """

    seconds: float
    """Length in seconds of a chunk, whose states are kept."""
    context_seconds: float = 5.0
    """Seconds of context on each side of a chunk, whose states are dropped."""

    def __post_init__(self) -> None:
        """Raise a `UserError` for lengths out of range."""
        if not 0.1 <= self.seconds <= _LONGEST or not 0 <= self.context_seconds <= _LONGEST:
            raise UserError(
                f"chunks must be at least 0.1 s long, with a context of 0 s or more, both at most {_LONGEST:g} s, but "
                f"are {self.seconds} and {self.context_seconds}."
            )


def refuse_windows(config: EncoderConfig) -> None:
    """Raise a `UserError` for an encoder with its own windows, such as Whisper's."""
    if config.window_samples is not None:
        raise UserError(
            f"chunks must be left out for a {config.family} encoder: it cuts long audio into windows of "
            f"{config.window_samples / SAMPLE_RATE:g} s by itself."
        )


@torch.no_grad()
def encode_in_chunks(
    encoder: SpeechEncoder, wav: Tensor, chunks: Chunks, *, layer: int | None, rule: StateRule
) -> Tensor:
    """Hidden states of one utterance: (states, T, D), or (T, D) for one layer.

    Args:
        encoder: in evaluation mode.
        wav: (S,) unnormalised, 16 kHz, on the encoder's device and in its precision.
        chunks: lengths of chunk and context.
        layer: index of a state; None for all.
        rule: which states the model publishes.
    """
    config = encoder.config
    assert config.max_frames is None, "`refuse_windows` has checked it"
    wavs = wav[None]
    if config.normalize_waveform:
        wavs = normalize_utterances(wavs, None)
    wavs = encoder.one_frame_at_least(wavs)
    features = encoder.feature_extractor(wavs)  # (1, T, C)
    size, context = (
        round(seconds * SAMPLE_RATE / config.hop_samples) for seconds in (chunks.seconds, chunks.context_seconds)
    )
    factor = 1 if config.time_reduction is None else config.time_reduction.factor
    num_frames, parts = features.shape[1], []
    for start in range(0, num_frames, size):
        first = max(0, start - context) // factor * factor  # the same frames are merged as in the whole
        heard = features[:, first : -(-(start + size + context) // factor) * factor]
        states = encoder.states(encoder(wavs[:, : config.frame_samples], features=heard), rule)
        kept = slice(start - first, start - first + size)
        parts.append(torch.stack([state[0, kept] for state in (states if layer is None else [states[layer]])]))
    joined = torch.cat(parts, 1)  # (states, T, D)
    return joined if layer is None else joined[0]
