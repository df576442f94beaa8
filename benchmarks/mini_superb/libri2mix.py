"""SD: mixtures of two real voices in the layout of Libri2Mix's diarization, as s3prl reads it.

Each voice's track is a sequence of its clips with pauses between them; two tracks are added. So there is silence, one
voice, and both at once, and who speaks when is known from the clips' boundaries. No voice is in two splits.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.mini_superb.clips import distinct, generator, level
from benchmarks.mini_superb.sources import VOICE_PACKAGES, Sources
from benchmarks.mini_superb.voxceleb import TEST_VOICES
from benchmarks.mini_superb.writer import CorpusWriter, Record
from s3prl_pruned.checkpoint import write_text
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE

FOLDERS = {"train": "train-100", "dev": "dev", "test": "test"}
"""Folders of the mixtures, named as in Libri2Mix."""

MIXTURES = {"full": {"train": 72, "dev": 14, "test": 24}, "tiny": {"train": 6, "dev": 2, "test": 2}}
DEV_VOICES = 8
CLIPS = 40
"""Maximum number of clips of each voice; within a split a clip may be in two mixtures, as in Libri2Mix."""

SECONDS = 8.0
"""A track gets no further clip after this many seconds."""

LONGEST_CLIP = 6.0
FIRST_PAUSE, PAUSE = 2.0, 1.0
"""Maximum seconds before the first clip, and between two clips."""

SOFTER = 5.0
"""Maximum dB by which the second voice is softer."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One segment of one voice in a mixture, in samples."""

    voice: str
    start: int
    end: int


def write_libri2mix(writer: CorpusWriter, sources: Sources, *, tiny: bool) -> Record:
    """Write ``Libri2Mix/``: the mixtures and a Kaldi folder of each split, without ``wav.scp`` (`write_wav_scp`).

    Raises:
        UserError: if a split has fewer than two voices.
    """
    voices, seen = {}, set()
    for voice, clips in sources.voices().items():
        generator("libri2mix", voice).shuffle(clips)
        speech = (level(wav) for _, wav in distinct(clips[: 2 * CLIPS], seen) if len(wav) <= LONGEST_CLIP * SAMPLE_RATE)
        voices[voice] = list(itertools.islice(speech, CLIPS))
    others = [voice for voice in voices if voice not in TEST_VOICES]
    generator("libri2mix", "dev").shuffle(others)
    held_out = min(DEV_VOICES, len(others) // 2)
    splits = {"train": others[held_out:], "dev": others[:held_out], "test": [v for v in voices if v in TEST_VOICES]}
    for split, names in splits.items():
        if len(names) < 2:
            raise UserError(f"SD needs at least two voices for {split}, but has {len(names)}.")
        draw = generator("libri2mix", split)
        rows = []
        for number in range(MIXTURES["tiny" if tiny else "full"][split]):
            pair = draw.sample(sorted(names), 2)
            wav, segments = _mix(pair, voices, draw)
            name = f"{split}-{number:04d}_" + "_".join(map(_speaker, pair))
            path = f"Libri2Mix/wav16k/max/{FOLDERS[split]}/mix_clean/{name}.wav"
            writer.audio(path, wav, split=split, speaker=pair[0])
            writer.splits[split]["speakers"] = sorted({*writer.splits[split]["speakers"], *pair})
            rows.append((name, len(wav), segments))
        _write_kaldi(writer, f"Libri2Mix/data/{split}", rows)
    note = "Mixtures of two voices' clips with pauses; wav.scp holds absolute paths and is written anew by each call."
    return {"tasks": ["sd"], "synthetic": False, "note": note, "sources": sources.describe(VOICE_PACKAGES)}


def write_wav_scp(root: Path) -> None:
    """Write each split's ``wav.scp`` with absolute paths for s3prl; must be repeated if the folder is moved."""
    for split, folder in FOLDERS.items():
        mixtures = sorted((root / "Libri2Mix/wav16k/max" / folder / "mix_clean").glob("*.wav"))
        lines = [f"{path.stem} {path.resolve()}\n" for path in mixtures]
        write_text(root / "Libri2Mix/data" / split / "wav.scp", "".join(lines))


def _mix(pair: list[str], voices: dict[str, list[np.ndarray]], draw: random.Random) -> tuple[np.ndarray, list[Segment]]:
    """A mixture ``(S,)`` int16, as long as the longer track, and its segments."""
    segments, placed = [], []
    for voice, loudness in zip(pair, (0.0, -draw.uniform(0, SOFTER)), strict=True):
        position = round(draw.uniform(0, FIRST_PAUSE) * SAMPLE_RATE)
        for wav in draw.sample(voices[voice], len(voices[voice])):
            if position > SECONDS * SAMPLE_RATE:
                break
            segments.append(Segment(voice=voice, start=position, end=position + len(wav)))
            placed.append((position, wav * 10 ** (loudness / 20)))
            position += len(wav) + round(draw.uniform(0.1, PAUSE) * SAMPLE_RATE)
    mixture = np.zeros(max(segment.end for segment in segments))
    for position, wav in placed:
        mixture[position : position + len(wav)] += wav
    mixture *= min(1.0, 32000 / np.abs(mixture).max())
    return np.round(mixture).astype(np.int16), segments


def _write_kaldi(writer: CorpusWriter, folder: str, rows: list[tuple[str, int, list[Segment]]]) -> None:
    """``segments``, ``utt2spk``, ``spk2utt``, ``rttm``, ``reco2dur``.

    Names of utterances begin with their speaker (Kaldi's order).
    """
    utterances, rttm = [], []
    for name, _, segments in rows:
        for number, segment in enumerate(sorted(segments, key=lambda s: (s.start, s.voice))):
            speaker = _speaker(segment.voice)
            start, end = segment.start / SAMPLE_RATE, segment.end / SAMPLE_RATE
            utterances.append((f"{speaker}_{name}_{number:02d}", name, start, end, speaker))
            rttm.append(f"SPEAKER {name} 1 {start:.3f} {end - start:.3f} <NA> <NA> {speaker} <NA> <NA>\n")
    utterances.sort()
    spk2utt: dict[str, list[str]] = {}
    for utterance, *_, speaker in utterances:
        spk2utt.setdefault(speaker, []).append(utterance)
    segment_lines = [f"{utterance} {rec} {start:.3f} {end:.3f}\n" for utterance, rec, start, end, _ in utterances]
    writer.text(f"{folder}/segments", "".join(segment_lines))
    writer.text(f"{folder}/utt2spk", "".join(f"{u} {speaker}\n" for u, *_, speaker in utterances))
    writer.text(f"{folder}/spk2utt", "".join(f"{speaker} {' '.join(us)}\n" for speaker, us in sorted(spk2utt.items())))
    writer.text(f"{folder}/rttm", "".join(rttm))
    writer.text(
        f"{folder}/reco2dur", "".join(f"{name} {length / SAMPLE_RATE:.3f}\n" for name, length, _ in sorted(rows))
    )


def _speaker(voice: str) -> str:
    return voice.replace("/", "-")
