"""Audio files to 16 kHz mono tensors. Shapes: ``S`` samples, ``B`` utterances of a batch."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch.nn.functional import layer_norm

from s3prl_pruned.config import UserError

SAMPLE_RATE = 16_000
"""Hz. What every encoder here expects."""

FRAME_SAMPLES = 400
"""Samples under one frame: the receptive field of wav2vec 2.0's seven convolutions (25 ms)."""


def read_waveform(path: str | Path) -> torch.Tensor:
    """Decode one utterance: ``(S,)`` float32 at 16 kHz, full scale at -1 and 1.

    Any format that libsndfile reads. Several channels are averaged, since recorded speech stands in
    all of them and a random choice would change from run to run. Another sample rate is converted
    by a polyphase filter (``scipy.signal.resample_poly``); a lower one leaves the upper band empty.

    Raises:
        UserError: if the file is missing, empty, truncated, undecodable, shorter than one frame,
            or holds NaN or infinity. (An MP3 without a length in its header may be cut unnoticed.)
    """
    path = Path(path)
    samples, rate = _decode(path)  # (S', channels)
    broken = int((~np.isfinite(samples)).sum())
    if broken:
        raise UserError(
            f"{path}: samples must be finite, but {broken} of {samples.size} are NaN or infinite. "
            "Repair the file or leave it out."
        )
    wav = resample(samples.mean(axis=1), rate)  # (S,)
    if len(wav) < FRAME_SAMPLES:
        raise UserError(
            f"{path}: an utterance must be at least one frame ({FRAME_SAMPLES} samples at 16 kHz, "
            f"25 ms), but has {len(wav)} samples. Leave it out."
        )
    return torch.from_numpy(wav)


def num_samples(path: str | Path) -> int:
    """The length that ``read_waveform`` will give, in samples at 16 kHz, from the header alone.

    Raises:
        UserError: if the file is missing, empty, truncated, or no audio.
    """
    path = Path(path)
    _refuse_missing_bytes(path)
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError) as error:
        raise _undecodable(path, error) from error
    return _resampled_length(info.frames, info.samplerate)


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Convert ``(S',)`` float32 at ``rate`` Hz to ``(S,)`` at 16 kHz, ``S = ceil(S' 16000 / rate)``."""
    if rate == SAMPLE_RATE:
        return samples
    from scipy.signal import resample_poly  # slow to import, and most corpora never need it

    divisor = math.gcd(SAMPLE_RATE, rate)
    return resample_poly(samples, SAMPLE_RATE // divisor, rate // divisor).astype(np.float32)


def crop(wav: torch.Tensor, max_samples: int, generator: torch.Generator) -> torch.Tensor:
    """A random stretch of at most ``max_samples``: ``(S,)`` to ``(min(S, max_samples),)``."""
    excess = len(wav) - max_samples
    if excess <= 0:
        return wav
    start = int(torch.randint(excess + 1, (), generator=generator))
    return wav[start : start + max_samples]


def collate(wavs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Utterances ``(S_b,)`` to a zero-padded batch ``(B, S_max)`` and its lengths ``(B,)`` int64."""
    lengths = torch.tensor([len(wav) for wav in wavs], dtype=torch.int64)
    return torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True), lengths


def normalize_waveform(wav: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit variance over one utterance ``(S,)``, before any padding.

    wav2vec 2.0's ``normalize``: Large models want it, Base models do not.
    """
    return layer_norm(wav, wav.shape)


def _decode(path: Path) -> tuple[np.ndarray, int]:
    """All samples ``(S', channels)`` float32 and the file's own rate in Hz."""
    _refuse_missing_bytes(path)
    try:
        with soundfile.SoundFile(path) as file:
            announced, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise _undecodable(path, error) from error
    if len(samples) == 0:
        raise UserError(f"{path}: must hold audio, but holds 0 samples. Leave it out.")
    if len(samples) < announced:
        raise _truncated(path, f"{len(samples)} of {announced} samples are there")
    return samples, rate


def _refuse_missing_bytes(path: Path) -> None:
    """Refuse what libsndfile would read as a shorter file: WAV and Ogg whose end is missing."""
    if not path.is_file():
        raise UserError(f"{path}: no such audio file.")
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"{path}: must hold audio, but is empty (0 bytes). Copy the file again.")
    with open(path, "rb") as file:
        head = file.read(8)
        if head[:4] == b"RIFF":
            announced = int.from_bytes(head[4:], "little") + 8
            # Writers to a pipe leave 0 or all ones; many omit the last padding byte.
            if head[4:] not in (b"\0\0\0\0", b"\xff\xff\xff\xff") and size + 1 < announced:
                raise _truncated(path, f"{size} of {announced} bytes are there")
        elif head[:4] == b"OggS":
            file.seek(max(0, size - 2 * 65_536))  # a page has at most 65,307 bytes
            if not _ends_an_ogg_stream(file.read()):
                raise _truncated(path, "its last Ogg page is not a stream's end")


def _ends_an_ogg_stream(tail: bytes) -> bool:
    """Whether ``tail`` holds, after its last page header, a whole page marked as last (RFC 3533)."""
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return False
    end_of_stream = page[5] & 4
    return bool(end_of_stream) and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def _resampled_length(samples: int, rate: int) -> int:
    return -(-samples * SAMPLE_RATE // rate)


def _truncated(path: Path, found: str) -> UserError:
    return UserError(f"{path}: is truncated ({found}). Copy the file again or leave it out.")


def _undecodable(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "error_string", str(error)).strip().rstrip(".")
    return UserError(
        f"{path}: cannot be decoded: {reason}. It is truncated, or no audio that libsndfile reads "
        "(WAV, FLAC, Ogg, Opus, MP3). Copy the file again or leave it out."
    )
