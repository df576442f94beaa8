"""Audio files to 16 kHz mono tensors. Shapes: ``S`` samples, ``B`` utterances of a batch."""

from __future__ import annotations

import io
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


def read_waveform(
    path: str | Path, *, seconds: tuple[float, float] | None = None, span: tuple[int, int] | None = None
) -> torch.Tensor:
    """Decode one utterance: ``(S,)`` float32 at 16 kHz, full scale at -1 and 1.

    Any format that libsndfile reads. Several channels are averaged, since recorded speech stands in
    all of them and a random choice would change from run to run. Another sample rate is converted
    by a polyphase filter (``scipy.signal.resample_poly``); a lower one leaves the upper band empty.

    Args:
        path: the audio file, or with ``span`` a file that holds it.
        seconds: decode only this piece of it: start and duration.
        span: first byte and number of bytes of the audio file within ``path``, an uncompressed archive.

    Raises:
        UserError: if the file is missing, empty, truncated, undecodable, shorter than one frame,
            or holds NaN or infinity. (An MP3 without a length in its header may be cut unnoticed.)
    """
    path = Path(path)
    samples, rate = _decode(path, seconds, span)  # (S', channels)
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


def _decode(path: Path, seconds: tuple[float, float] | None, span: tuple[int, int] | None) -> tuple[np.ndarray, int]:
    """Samples ``(S', channels)`` float32 of the wanted piece, and the file's own rate in Hz."""
    if span is None:
        _refuse_missing_bytes(path)
    try:
        with soundfile.SoundFile(path if span is None else io.BytesIO(_read_span(path, *span))) as file:
            rate, first, wanted = file.samplerate, 0, file.frames
            if seconds is not None:
                first, wanted = round(seconds[0] * rate), round(seconds[1] * rate)
                if first + wanted > file.frames:
                    last = f"the piece ends at {sum(seconds):.3f} s, the file at {file.frames / rate:.3f} s"
                    raise _truncated(path, last)
                file.seek(first)
            samples = file.read(wanted, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise _undecodable(path, error) from error
    if len(samples) == 0:
        raise UserError(f"{path}: must hold audio, but holds 0 samples. Leave it out.")
    if len(samples) < wanted:
        raise _truncated(path, f"{len(samples)} of {wanted} samples are there")
    return samples, rate


def _read_span(path: Path, offset: int, size: int) -> bytes:
    if not path.is_file():
        raise UserError(f"{path}: no such archive.")
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) < size:
        raise _truncated(path, f"bytes {offset} to {offset + size} are wanted, it has {path.stat().st_size}")
    return data


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
