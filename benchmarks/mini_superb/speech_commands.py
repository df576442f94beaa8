"""KS: spoken names of letters in the layout of Speech Commands v0.01.

No free data set has the ten English keywords by several voices. The names of letters are nearly the same in the
languages of the European continent, so ten of them take the place of the ten keywords (`KEYWORDS`), spoken by fourteen
voices; other letters and syllables are the unknown words. No voice is in two splits.
"""

from __future__ import annotations

import hashlib

import numpy as np

from benchmarks.mini_superb.clips import Clip, distinct, generator
from benchmarks.mini_superb.sources import Sources
from benchmarks.mini_superb.writer import CorpusWriter, Record
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE

KEYWORDS = {
    "yes": "AА",
    "no": "OО",
    "up": "UУ",
    "down": "IИІ",
    "left": "LЛ",
    "right": "FФ",
    "on": "MМ",
    "off": "SС",
    "stop": "TТ",
    "go": "KК",
}
"""Folder of Speech Commands: the letter whose spoken name it holds, Latin and Cyrillic."""

UNKNOWN_FOLDERS = ("other_letter", "syllable")
"""s3prl counts every folder outside its twelve classes as ``_unknown_``."""

VOICES = {"valid": 2, "test": 5}
"""Number of voices in each split; all others are in train."""

UNKNOWN = {"full": 14, "tiny": 3}
"""Unknown words of each voice."""

LONGEST = 1.0
"""Maximum seconds, as in Speech Commands; longer clips hold more than the letter and are left out."""

NOISE_SECONDS = 20
SILENCES = 10
"""Number of one-second pieces of silence in the test set."""

TRAIN, TEST = "speech_commands_v0.01", "speech_commands_test_set_v0.01"
MAX_FILES = 2**27 - 1
"""Constant of the rule that splits Speech Commands by file names."""


def which_split(speaker: str) -> str:
    """Split of a speaker by the SHA-1 of its name (Warden 2018; s3prl's ``split_dataset``)."""
    hashed = int(hashlib.sha1(speaker.encode()).hexdigest(), 16)
    percent = (hashed % (MAX_FILES + 1)) * (100.0 / MAX_FILES)
    return "valid" if percent < 10 else "test" if percent < 20 else "train"


def speaker_name(voice: str, split: str) -> str:
    """Eight hexadecimal digits for a voice, for which ``which_split`` returns ``split``."""
    names = (hashlib.sha1(f"{voice} {k}".encode()).hexdigest()[:8] for k in range(10_000))
    return next(name for name in names if which_split(name) == split)


def write_speech_commands(writer: CorpusWriter, sources: Sources, *, tiny: bool) -> Record:
    """Write both folders of Speech Commands: training with its lists and noises, and the test set.

    Raises:
        UserError: if there are too few voices.
    """
    letters = sources.letters()
    if len(letters) <= sum(VOICES.values()):
        raise UserError(
            f"KS needs more than {sum(VOICES.values())} voices that say letters, but there are {len(letters)}."
        )
    voices = sorted(letters)
    generator("ks").shuffle(voices)
    heldout = [*["test"] * VOICES["test"], *["valid"] * VOICES["valid"]]
    splits = dict(zip(voices, [*heldout, *["train"] * len(voices)], strict=False))
    lists: dict[str, list[str]] = {"valid": [], "test": []}
    seen: set[str] = set()
    for voice, split in sorted(splits.items()):
        speaker = speaker_name(voice, split)
        taken: dict[str, int] = {}
        for folder, _, wav in _choose(letters[voice], seen, unknown=UNKNOWN["tiny" if tiny else "full"]):
            name = f"{folder}/{speaker}_nohash_{taken.get(folder, 0)}.wav"
            taken[folder] = taken.get(folder, 0) + 1
            # As in the official archive, the test set's words are here too; s3prl excludes them by name.
            writer.audio(f"{TRAIN}/{name}", wav, split=None if split == "test" else split, speaker=voice)
            if split != "train":
                lists[split].append(name)
            if split == "test":
                label = folder if folder in KEYWORDS else "_unknown_"
                writer.audio(
                    f"{TEST}/{label}/{folder}_{speaker}_{taken[folder] - 1}.wav", wav, split="test", speaker=voice
                )
    writer.text(f"{TRAIN}/validation_list.txt", "".join(f"{name}\n" for name in sorted(lists["valid"])))
    writer.text(f"{TRAIN}/testing_list.txt", "".join(f"{name}\n" for name in sorted(lists["test"])))
    for name in ("white_noise", "pink_noise"):
        noise = _noise(name, NOISE_SECONDS)
        writer.audio(f"{TRAIN}/_background_noise_/{name}.wav", noise, split="noise", speaker=None)
        for second in range(SILENCES // 2):
            # New noise, which does not occur in training.
            piece = _noise(f"{name} test {second}", 1)
            writer.audio(f"{TEST}/_silence_/{name}_{second}.wav", piece, split="test", speaker=None)
    mapping = ", ".join(f"{word} = {names[0]}" for word, names in KEYWORDS.items())
    note = f"Keyword folders hold names of letters in {len(letters)} languages: {mapping}; noise is generated."
    return {"tasks": ["ks"], "synthetic": False, "note": note, "sources": sources.describe(["klettres-data"])}


def _choose(clips: list[Clip], seen: set[str], *, unknown: int) -> list[tuple[str, Clip, np.ndarray]]:
    """Folder, clip and speech of one voice's words: each keyword once, and ``unknown`` other words."""
    keyword_of = {letter: word for word, letters in KEYWORDS.items() for letter in letters}
    chosen, others = {}, []
    for clip, wav in distinct(clips, seen):
        if len(wav) > LONGEST * SAMPLE_RATE:
            continue
        word = keyword_of.get(clip.label or "")
        if word is None:
            others.append((UNKNOWN_FOLDERS[0] if clip.label else UNKNOWN_FOLDERS[1], clip, wav))
        elif word not in chosen:
            chosen[word] = (word, clip, wav)
    generator("ks", clips[0].voice).shuffle(others)
    return [chosen[word] for word in KEYWORDS if word in chosen] + others[:unknown]


def _noise(name: str, seconds: int) -> np.ndarray:
    """White or pink noise, ``(S,)`` int16, at -40 dB of full scale."""
    rng = np.random.default_rng(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))
    noise = rng.standard_normal(seconds * SAMPLE_RATE)
    if name.startswith("pink"):
        spectrum = np.fft.rfft(noise)
        spectrum /= np.sqrt(np.maximum(1, np.arange(len(spectrum))))
        noise = np.fft.irfft(spectrum, len(noise))
    return np.round(noise / noise.std() * 327.68).astype(np.int16)
