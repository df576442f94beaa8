"""ER: four emotions in IEMOCAP's layout, SYNTHETIC speech by espeak-ng.

Here an emotion is a manner of speaking (pitch, its range, speed, loudness, each sampled around a mean), not a feeling.
The sentences are the same for all emotions, so that words do not reveal them. Each of the five sessions has two voices
of its own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from benchmarks.mini_superb.clips import generator
from benchmarks.mini_superb.espeak import SyntheticVoice
from benchmarks.mini_superb.sources import Sources
from benchmarks.mini_superb.writer import CorpusWriter, Record
from s3prl_pruned.data.waveforms import SAMPLE_RATE


@dataclass(frozen=True, kw_only=True)
class Manner:
    """Means of a manner of speaking, relative to the voice's own."""

    pitch: int = 0
    """Steps of espeak-ng's scale."""

    pitch_range: int = 100
    """Percent of the default range."""

    speed: int = 0
    """Words per minute."""

    amplitude: int = 100
    """In steps of espeak-ng's scale."""


EMOTIONS = {
    "neu": Manner(),
    "hap": Manner(pitch=14, pitch_range=150, speed=15, amplitude=110),
    "exc": Manner(pitch=20, pitch_range=160, speed=30, amplitude=125),
    "ang": Manner(pitch=4, pitch_range=130, speed=25, amplitude=160),
    "sad": Manner(pitch=-10, pitch_range=60, speed=-35, amplitude=70),
    "fru": Manner(pitch=-2, pitch_range=110, speed=10, amplitude=130),
}
"""IEMOCAP's labels. `exc` counts as `hap`, `fru` is left out, as in SUPERB's task."""

SPREAD = {"pitch": 7, "pitch_range": 20, "speed": 14, "amplitude": 15}
"""Standard deviations between utterances, wide enough for the emotions to overlap."""

DIALOGS = {
    "impro01": ("neu", "ang", "sad", "hap", "neu", "fru"),
    "script01_1": ("exc", "sad", "ang", "neu", "hap", "sad", "ang"),
}
"""The emotions of one round of a dialog."""

ROUNDS = {"full": 3, "tiny": 1}

VOICES = {
    "1": {"F": ("en-us", "f1"), "M": ("en-us", "m1")},
    "2": {"F": ("en-gb", "f2"), "M": ("en-gb", "m2")},
    "3": {"F": ("en-gb-x-rp", "f3"), "M": ("en-gb-scotland", "m3")},
    "4": {"F": ("en-us", "f4"), "M": ("en-029", "m4")},
    "5": {"F": ("en-gb", "Annie"), "M": ("en-us", "m7")},
}
"""Accent and variant of each session's two voices."""

SENTENCES = (
    "I did not expect to see you here today",
    "They told me about it this morning",
    "You said that you would call me",
    "I have been waiting for an hour",
    "We should talk about the house",
    "That is what she wrote in the letter",
    "Nobody asked me what I wanted",
    "It happened again last night",
    "He is coming home on Friday",
    "I know what you are going to say",
    "There is nothing left in the kitchen",
    "Let us go and look at it together",
)


def write_iemocap(writer: CorpusWriter, sources: Sources, *, tiny: bool) -> Record:
    """Write ``IEMOCAP/Session1`` to ``Session5``: sentences and their evaluation, from which the folds are made."""
    for session, voices in VOICES.items():
        for gender, (accent, variant) in voices.items():
            draw = generator("iemocap", session, gender)
            for dialog, emotions in DIALOGS.items():
                name = f"Ses{int(session):02d}{gender}_{dialog}"
                turns = []
                for emotion in emotions * ROUNDS["tiny" if tiny else "full"]:
                    voice = _voice(EMOTIONS[emotion], accent, variant, gender, draw)
                    turn = f"{name}_{gender}{len(turns):03d}"
                    wav = sources.say(draw.choice(SENTENCES), voice)
                    path = f"IEMOCAP/Session{session}/sentences/wav/{name}/{turn}.wav"
                    writer.audio(path, wav, split=f"Session{session}", speaker=f"Ses{int(session):02d}{gender}")
                    turns.append((turn, emotion, len(wav) / SAMPLE_RATE))
                writer.text(f"IEMOCAP/Session{session}/dialog/EmoEvaluation/{name}.txt", _evaluation(turns))
    note = "An emotion is a manner of speaking: pitch, its range, speed and loudness around a mean."
    return {"tasks": ["er"], "synthetic": True, "note": note, "sources": sources.describe(["espeak-ng"])}


def _voice(manner: Manner, accent: str, variant: str, gender: str, draw: random.Random) -> SyntheticVoice:
    def around(mean: int, key: str, low: int, high: int) -> int:
        return round(min(high, max(low, draw.gauss(mean, SPREAD[key]))))

    return SyntheticVoice(
        accent=accent,
        variant=variant,
        pitch=around((55 if gender == "F" else 45) + manner.pitch, "pitch", 5, 95),
        pitch_range=around(manner.pitch_range, "pitch_range", 20, 200),
        speed=around(165 + manner.speed, "speed", 90, 260),
        amplitude=around(manner.amplitude, "amplitude", 30, 200),
    )


def _evaluation(turns: list[tuple[str, str, float]]) -> str:
    """The summary lines of ``dialog/EmoEvaluation/*.txt``: times, turn, emotion, and a constant for the ratings."""
    lines, start = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"], 0.0
    for turn, emotion, seconds in turns:
        lines.append(f"\n[{start:.4f} - {start + seconds:.4f}]\t{turn}\t{emotion}\t[2.5000, 2.5000, 2.5000]\n")
        start += seconds + 0.5
    return "".join(lines)
