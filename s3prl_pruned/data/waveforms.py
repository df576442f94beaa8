"""Read audio files as 16 kHz mono tensors. Shapes: ``S`` samples, ``B`` utterances of a batch."""

from __future__ import annotations

import functools
import logging
import math
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import layer_norm

from s3prl_pruned.config import UserError
from s3prl_pruned.data.containers import open_audio, truncated

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
"""Hz. What every encoder here expects."""

FRAME_SAMPLES = 400
"""Samples under one frame: the receptive field of wav2vec 2.0's seven convolutions (25 ms)."""

PIECE_TOLERANCE = 0.025
"""Seconds by which a piece may end after its file, since lists are rounded (lhotse's at another sample rate, Kaldi's to
milliseconds). As in lhotse, missing samples are the end mirrored."""

MOST_NAMED = 5
"""Number of files that one process names in warnings of one kind."""


def read_waveform(
    path: str | Path, *, seconds: tuple[float, float] | None = None, span: tuple[int, int] | None = None
) -> torch.Tensor:
    """Decode one utterance: ``(S,)`` float32 at 16 kHz, full scale at -1 and 1.

    Any format that libsndfile reads. Several channels are averaged, since all of them hold the
    speech and a random choice would change from run to run; if they cancel out (one is the other's
    negative), only the loudest is used, with a warning. Another sample rate is converted by a
    polyphase filter (``scipy.signal.resample_poly``); a lower one leaves the upper band empty.

    Args:
        path: the audio file, or with ``span`` a file that holds it.
        seconds: start and duration of the piece to decode; None for all.
        span: first byte and number of bytes of the audio file within ``path``, an uncompressed archive.

    Raises:
        UserError: if the file is missing, unreadable, empty, truncated, undecodable, shorter than one
            frame, or holds NaN or infinity. (An MP3 without a length in its header may be cut unnoticed.)
    """
    path = Path(path)
    samples, rate = _decode(path, seconds, span)  # (S', channels)
    broken = int((~np.isfinite(samples)).sum())
    if broken:
        raise UserError(
            f"{path}: samples must be finite, but {broken} of {samples.size} are NaN or infinite. "
            "Repair the file or leave it out."
        )
    wav = resample(_mono(samples, path), rate)  # (S,)
    if len(wav) < FRAME_SAMPLES:
        raise UserError(
            f"{path}: an utterance must be at least one frame ({FRAME_SAMPLES} samples at 16 kHz, "
            f"25 ms), but has {len(wav)} samples. Leave it out."
        )
    return torch.from_numpy(wav)


def num_samples(path: str | Path) -> int:
    """The length that ``read_waveform`` will give, in samples at 16 kHz.

    From the header alone if it gives the length; else the file is decoded.

    Raises:
        UserError: if the file is missing, may not be read, is empty, truncated, or not audio.
    """
    with open_audio(Path(path)) as file:
        return _resampled_length(file.count(), file.samplerate)


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Convert ``(S',)`` float32 at ``rate`` Hz to ``(S,)`` at 16 kHz, ``S = ceil(S' 16000 / rate)``."""
    if rate == SAMPLE_RATE:
        return samples
    from scipy.signal import resample_poly  # slow to import, and most corpora never need it

    divisor = math.gcd(SAMPLE_RATE, rate)
    return resample_poly(samples, SAMPLE_RATE // divisor, rate // divisor).astype(np.float32)


def crop_start(length: int, max_samples: int, generator: torch.Generator) -> int:
    """Start of a random crop of at most ``max_samples`` in an utterance of ``length`` samples."""
    excess = length - max_samples
    return int(torch.randint(excess + 1, (), generator=generator)) if excess > 0 else 0


def collate(wavs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Utterances ``(S_b,)`` to a zero-padded batch ``(B, S_max)`` and its lengths ``(B,)`` int64."""
    lengths = torch.tensor([len(wav) for wav in wavs], dtype=torch.int64)
    return torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True), lengths


def normalize_waveform(wav: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit variance over one utterance ``(S,)``, before any padding.

    wav2vec 2.0's ``normalize``: Large models want it, Base models do not.
    """
    return layer_norm(wav, wav.shape)


def _decode(path: Path, seconds: tuple[float, float] | None, span: tuple[int, int] | None) -> tuple[np.ndarray, int]:
    """Samples ``(S', channels)`` float32 of the wanted piece, and the file's own rate in Hz."""
    with open_audio(path, span) as file:
        rate = file.samplerate
        if seconds is None:
            samples = file.piece()
        else:
            first, wanted = round(seconds[0] * rate), round(seconds[1] * rate)
            samples = file.piece(first, wanted)
            missing = max(0, wanted - len(samples))
            if missing > PIECE_TOLERANCE * rate or missing == wanted > 0:
                end = f"at {(first + len(samples)) / rate:.3f} s" if len(samples) else "before it begins"
                raise truncated(path, f"the piece ends at {sum(seconds):.3f} s, the file {end}")
            samples = np.pad(samples, ((0, missing), (0, 0)), mode="reflect")
    if len(samples) == 0:
        raise UserError(f"{path}: must hold audio, but holds 0 samples. Leave it out.")
    return samples, rate


def _mono(samples: np.ndarray, path: Path) -> np.ndarray:
    """The average of the channels, ``(S', channels)`` to ``(S',)``; the loudest one if they cancel out.

    They do where a plug was soldered the wrong way round: one channel is the other's negative, and the average is
    silence with some noise. The average of uncorrelated channels has a power of ``sum(powers) / channels**2``; with
    less than a hundredth of that, it holds no speech any more.
    """
    mono = samples.mean(axis=1)
    if samples.shape[1] == 1:
        return mono
    powers = np.square(samples, dtype=np.float64).mean(axis=0)  # (channels,)
    if np.square(mono, dtype=np.float64).mean() >= powers.sum() / len(powers) ** 2 / 100:
        return mono
    _warn_of_cancelling(path)
    return samples[:, powers.argmax()]


@functools.cache
def _warn_of_cancelling(path: Path) -> None:
    if (number := _warn_of_cancelling.cache_info().misses) <= MOST_NAMED:
        more = " Further such files are not named." if number == MOST_NAMED else ""
        logger.warning("%s: the channels cancel out in their average; only the loudest is used.%s", path, more)


def _resampled_length(samples: int, rate: int) -> int:
    return -(-samples * SAMPLE_RATE // rate)
