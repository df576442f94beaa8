"""``torchaudio.load`` and ``torchaudio.info`` through soundfile.

torchaudio 2.9 and newer decode through torchcodec, whose wheels need FFmpeg's or CUDA's shared
libraries, and have no ``info``. soundfile includes its decoders: WAV, FLAC, Ogg Vorbis, Opus and
MP3. Only the options that s3prl uses are supported; any other is an error.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from s3prl_pruned.config import UserError


@dataclass(frozen=True)
class AudioMetaData:
    """What ``info`` returns."""

    sample_rate: int
    """Hz."""
    num_frames: int
    """Samples per channel."""
    num_channels: int
    encoding: str
    """soundfile's name of the sample format, such as ``PCM_16``, ``VORBIS``, ``OPUS``."""


def load(
    uri: str | os.PathLike,
    frame_offset: int = 0,
    num_frames: int = -1,
    normalize: bool = True,
    channels_first: bool = True,
    format: str | None = None,
    buffer_size: int = 4096,
    backend: str | None = None,
) -> tuple[torch.Tensor, int]:
    """Read audio as float32 in [-1, 1].

    Args:
        uri: path of the file.
        frame_offset: samples to skip.
        num_frames: largest number of samples to read, -1 for all.
        normalize: must be True; integer samples are not supported.
        channels_first: (C, S) when True, else (S, C).
        format: ignored; soundfile detects it.
        buffer_size: ignored.
        backend: ignored.

    Returns:
        The audio and its sample rate in Hz.

    Raises:
        UserError: on a file that is missing or cannot be decoded, or ``normalize=False``.
    """
    import soundfile

    if not normalize:
        raise UserError(f"{uri}: normalize must be True; samples are read as float32 only.")
    try:
        data, sample_rate = soundfile.read(
            os.fspath(uri), frames=num_frames, start=frame_offset, dtype="float32", always_2d=True
        )  # (S, C)
    except (soundfile.SoundFileError, OSError) as error:
        raise UserError(f"{uri}: cannot be decoded ({error}).") from error
    wav = torch.from_numpy(data)
    return (wav.T.contiguous() if channels_first else wav), sample_rate


def info(
    uri: str | os.PathLike, format: str | None = None, buffer_size: int = 4096, backend: str | None = None
) -> AudioMetaData:
    """Length, rate and channels of a file, from its header.

    Args:
        uri: path of the file.
        format: ignored; soundfile detects it.
        buffer_size: ignored.
        backend: ignored.

    Raises:
        UserError: on a file that is missing or cannot be decoded.
    """
    import soundfile

    try:
        found = soundfile.info(os.fspath(uri))
    except (soundfile.SoundFileError, OSError) as error:
        raise UserError(f"{uri}: cannot be decoded ({error}).") from error
    return AudioMetaData(
        sample_rate=found.samplerate,
        num_frames=found.frames,
        num_channels=found.channels,
        encoding=found.subtype,
    )
