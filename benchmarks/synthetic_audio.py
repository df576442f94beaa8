"""Synthetic audio for tests and benchmarks. It is not speech; numbers measured on it are not results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from s3prl_pruned.data.waveforms import SAMPLE_RATE


def synthetic_tone(num_samples: int, *, frequency: float, rate: int = SAMPLE_RATE) -> np.ndarray:
    """A sine of ``frequency`` Hz at half of full scale: ``(S,)`` float32."""
    time = np.arange(num_samples) / rate
    return (0.5 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def synthetic_noise(num_samples: int, *, seed: int) -> np.ndarray:
    """White noise, standard deviation 0.1 of full scale: ``(S,)`` float32."""
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def write_synthetic_corpus(
    root: str | Path,
    *,
    split: str = "train-clean-100",
    lengths: Sequence[int] = (16_000, 24_000, 32_000),
    speakers: int = 2,
    seed: int = 0,
) -> list[Path]:
    """Write a synthetic corpus in LibriSpeech's layout, one FLAC of noise per length.

    The files are ``{root}/{split}/{speaker}/{chapter}/{speaker}-{chapter}-{number}.flac``, with the
    chapter's ``.trans.txt`` beside them. The transcripts are made up.

    Args:
        root: the corpus folder.
        split: the split's folder.
        lengths: samples of each utterance at 16 kHz; the speakers take turns.
        speakers: number of speakers.
        seed: seed of the first utterance's noise; each further utterance has the next seed.

    Returns:
        the audio files, in the order of ``lengths``.
    """
    paths = []
    for number, length in enumerate(lengths):
        speaker, chapter = 100 + number % speakers, 1
        folder = Path(root) / split / str(speaker) / str(chapter)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{speaker}-{chapter}-{number:04d}"
        path = folder / f"{name}.flac"
        soundfile.write(path, synthetic_noise(length, seed=seed + number), SAMPLE_RATE)
        with open(folder / f"{speaker}-{chapter}.trans.txt", "a", encoding="utf-8") as file:
            file.write(f"{name} SYNTHETIC UTTERANCE {_WORDS[number % len(_WORDS)]}\n")
        paths.append(path)
    return paths


_WORDS = ("ONE", "TWO", "THREE", "FOUR", "FIVE")
