"""Sources of MINI-SUPERB for tests: no network, no espeak-ng.

Chords take the place of voices, so no score on them means anything.
"""

import hashlib
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.mini_superb.clips import Clip
from benchmarks.mini_superb.sources import Sources

VOICES = [
    *("kajongg/female1 kajongg/female2 kajongg/male1 tuxpaint/be tuxpaint/bg".split()),  # of TEST_VOICES
    *("asterisk/en hedgewars/British hedgewars/Pirate klettres/da tuxpaint/es".split()),
]
LETTERS = "AOUILFMSTK" + "BCD"
RATE = 16_000


class FakeSources(Sources):
    """Like ``Sources``, with the real embedded prompts and synthetic chords.

    Args:
        folder: folder for the chords' files.
    """

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.folder = folder

    def voices(self):
        return {voice: [self._clip(voice, f"clip{k}", seconds=1.0) for k in range(16)] for voice in sorted(VOICES)}

    def letters(self):
        return {
            f"klettres/{locale}": [
                *(self._clip(f"klettres/{locale}", f"alpha{x}", seconds=0.5, label=x) for x in LETTERS),
                *(self._clip(f"klettres/{locale}", f"syllable{k}", seconds=0.4) for k in range(2)),
            ]
            for locale in ("aa", "bb", "cc", "dd", "ee", "ff", "gg", "hh", "ii")
        }

    def pronounce(self, word):
        return ["AH0"] * len(word)

    def say(self, text, voice):
        return (32768 * chord(f"{voice} {text}", 0.05 * len(text))).astype(np.int16)

    def describe(self, names):
        return [{"package": name, "version": "0", "licence": "made up"} for name in names]

    def _clip(self, voice, name, *, seconds, label=None):
        path = self.folder / voice / f"{name}.wav"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, chord(f"{voice} {name}", seconds), RATE)
        return Clip(voice=voice, name=name, path=path, label=label)


def chord(name: str, seconds: float) -> np.ndarray:
    """``(S,)`` float: three tones that depend only on ``name``."""
    digest = hashlib.sha256(name.encode()).digest()
    time = np.arange(int(seconds * RATE)) / RATE
    return sum(0.1 * np.sin(2 * np.pi * (100 + 10 * digest[k]) * time) for k in range(3))
