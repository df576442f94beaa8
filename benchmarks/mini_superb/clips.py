"""Short recordings of known voices, and utterances made from them. Shapes: ``S`` samples at 16 kHz, int16."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.speech.debian_speech import read_pcm
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE

logger = logging.getLogger(__name__)

SEED = 0
"""Seed of every list and mixture of MINI-SUPERB."""

SPEECH_BELOW_PEAK = 25.0
"""A frame counts as speech if it is at most this many dB below the loudest 10 ms."""

MARGIN = 0.05
"""Seconds kept before and after the speech of a clip."""

LEVEL = 0.08
"""Root mean square after `level`, relative to full scale (-22 dB)."""

GAP = 0.1
"""Seconds of silence between the clips of one utterance."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One recording of one voice."""

    voice: str
    """Source and voice, such as ``kajongg/female1``."""

    name: str
    """Path below its source without suffix."""

    path: Path
    """The audio file, in any format that libsndfile reads."""

    label: str | None = None
    """The spoken text, if the task needs it."""

    def read(self) -> np.ndarray:
        """``(S,)`` int16: from the first to the last frame of speech."""
        return trim(read_pcm(self.path))


def generator(*parts: object) -> random.Random:
    """A generator that depends only on ``SEED`` and ``parts``, not on other draws."""
    return random.Random(" ".join(map(str, (SEED, *parts))))


def trim(wav: np.ndarray) -> np.ndarray:
    """Trim silence at both ends: ``(S',)`` to ``(S,)`` int16; unchanged if there is no speech."""
    frame = SAMPLE_RATE // 100
    energy = [float(np.mean(np.square(wav[i : i + frame], dtype=np.float64))) for i in range(0, len(wav), frame)]
    floor = max(energy) * 10 ** (-SPEECH_BELOW_PEAK / 10)
    loud = [i for i, value in enumerate(energy) if value > floor]
    if not loud:
        return wav
    margin = round(MARGIN * SAMPLE_RATE)
    return wav[max(0, loud[0] * frame - margin) : (loud[-1] + 1) * frame + margin]


def level(wav: np.ndarray) -> np.ndarray:
    """Scale ``(S,)`` int16 to `LEVEL`, or less where the peak would clip."""
    samples = wav.astype(np.float64)
    gain = min(LEVEL * 32768 / np.sqrt(np.mean(np.square(samples))), 32000 / np.abs(samples).max())
    return np.round(gain * samples).astype(np.int16)


def distinct(clips: Iterable[Clip], seen: set[str]) -> Iterator[tuple[Clip, np.ndarray]]:
    """Yield clips with their speech ``(S,)``.

    Clips whose audio was ``seen``, silent and broken ones, and clips under 0.2 s are left out. Packages hold copies of
    one recording under several names; these must not be in different splits.
    """
    for clip in clips:
        try:
            wav = clip.read()
        except UserError as error:  # a few of the packages' files are truncated
            logger.debug("left out: %s", error)
            continue
        digest = hashlib.sha256(wav.tobytes()).hexdigest()
        if digest in seen or len(wav) < 0.2 * SAMPLE_RATE or np.abs(wav).max() < 100:
            continue
        seen.add(digest)
        yield clip, wav


def join(wavs: Iterable[np.ndarray], *, seconds: float) -> Iterator[np.ndarray]:
    """Join consecutive clips, with ``GAP`` between them, to utterances ``(S,)`` with at least ``seconds`` of speech.

    A remainder at the end is too short and is left out.
    """
    gap = np.zeros(round(GAP * SAMPLE_RATE), np.int16)
    parts: list[np.ndarray] = []
    for wav in wavs:
        parts += [wav, gap]
        if sum(map(len, parts[::2])) >= seconds * SAMPLE_RATE:
            yield np.concatenate(parts[:-1])
            parts = []
