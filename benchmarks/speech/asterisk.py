"""The voice prompts of the Asterisk telephone exchange: decoding them, and making the embedded corpus.

Debian's ``asterisk-core-sounds-<language>-g722`` holds one professional voice per language in
G.722, 16 kHz; ``asterisk-core-sounds-<language>`` the text of the prompts. Both licences allow
this use (``embedded/speech/LICENSE.md``).
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.speech.debian import DebianPackage, fetch_package
from s3prl_pruned.config import UserError
from s3prl_pruned.data.corpus import LABELLED_SPLITS, assign_splits, normalize_transcript
from s3prl_pruned.data.waveforms import SAMPLE_RATE

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Voice:
    """One language of the prompts."""

    speaker: int
    """Speaker number in LibriSpeech's layout."""

    licence: str
    """The licence as in the Debian copyright file."""

    compression: float | None = None
    """libsndfile's Opus compression level for the embedded corpus, 0 (best) to 1; None: not in it."""


VOICES = {
    "en": Voice(speaker=1, licence="CC-BY-SA-3.0", compression=0.84),
    "fr": Voice(speaker=2, licence="CC-BY-SA-3.0", compression=0.91),
    "ru": Voice(speaker=3, licence="CC-BY-3.0", compression=0.91),
    "es": Voice(speaker=4, licence="CC-BY-SA-3.0"),
    "it": Voice(speaker=5, licence="CC-BY-3.0"),
}

NOT_SPEECH = frozenset(
    "ascending-2tone descending-2tone beep beeperr confbridge-join confbridge-leave tt-monkeys".split()
)
"""Prompts that are tones and effects; the folder ``silence`` holds no speech either."""

SHORTEST, LONGEST = 0.4, 20.0
"""Seconds. Shorter prompts are left out, longer prompts are not labelled."""

SEED = 0
"""Seed of the lists."""

CORRECTED = {
    # Typing errors, and numbers and symbols as the voice reads them.
    "confbridge-binaural-off": "Three D audio disabled",
    "confbridge-binaural-on": "Three D audio enabled",
    "demo-moreinfo": "Asterisk is an Open Source full-featured PBX and IVR platform that runs on the"
    " linux operating system. For more information, visit www dot asterisk dot org.",
    "digits/h-40": "fortieth",
    "letters/exclaimation-point": "exclamation point",
    "pbx-invalid": "I am sorry, but that's not a valid extension. Please try again.",
    "pbx-invalidpark": "I am sorry, but there is no call parked on that extension. Please try again.",
    "spy-h323": "H three two three",
    "unidentified-no-callback": "Unidentified or withheld and therefore cannot be called back.",
}
"""Corrected English texts that differ from the audio; checked against a recogniser's output."""

MISSPELT = {"umute": "unmute", "represenatives": "representatives"}

UNCERTAIN = frozenset(["spy-iax", "spy-iax2"])
"""English prompts whose text does not say how they are read (the letters IAX, as one word)."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One recording."""

    name: str
    """Path below the voice's folder without suffix, such as ``digits/7``."""

    utterance: str
    """``<speaker>-<chapter>-<number>``; the chapter is the folder, the number the position in it."""

    path: Path
    """The G.722 file."""

    seconds: float

    text: str
    """The text in the package; empty if it has none."""


def fetch_prompts(language: str, folder: Path) -> tuple[list[DebianPackage], list[Prompt]]:
    """Fetch one language's packages into ``folder`` and list its speech, sorted by name."""
    texts = fetch_package(f"asterisk-core-sounds-{language}", folder)
    sounds = fetch_package(f"asterisk-core-sounds-{language}-g722", folder)
    return [texts, sounds], read_prompts(texts.root, sounds.root, language=language)


def read_prompts(texts: Path, sounds: Path, *, language: str) -> list[Prompt]:
    """List the speech of one language: at least ``SHORTEST`` seconds, neither tones nor silence.

    Args:
        texts: root of the unpacked package with the texts.
        sounds: root of the unpacked package with the recordings.
        language: key of ``VOICES``.
    """
    spoken = _read_texts(texts, language)
    folders = list((sounds / "usr/share/asterisk/sounds").iterdir())
    if len(folders) != 1:
        raise UserError(f"{sounds}: must hold one voice, but holds {len(folders)}.")
    chapters: dict[str, list[str]] = defaultdict(list)
    for path in sorted(folders[0].rglob("*.g722")):
        name = path.relative_to(folders[0]).with_suffix("").as_posix()
        chapters[name.rpartition("/")[0]].append(name)
    prompts = []
    for chapter, folder in enumerate(sorted(chapters)):
        for number, name in enumerate(sorted(chapters[folder])):
            path = folders[0] / f"{name}.g722"
            seconds = 2 * path.stat().st_size / SAMPLE_RATE  # 64 kbit/s: two samples per byte
            if name in NOT_SPEECH or folder == "silence" or seconds < SHORTEST:
                continue
            utterance = f"{VOICES[language].speaker}-{chapter}-{number:04d}"
            text = spoken.get(name, "")
            prompts.append(Prompt(name=name, utterance=utterance, path=path, seconds=seconds, text=text))
    return sorted(prompts, key=lambda prompt: prompt.name)


def _read_texts(root: Path, language: str) -> dict[str, str]:
    name = f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
    with gzip.open(root / name, "rt", encoding="utf-8") as file:
        lines = [line.strip() for line in file if not line.startswith(";") and ":" in line]
    return {name: text.strip() for name, _, text in (line.partition(":") for line in lines)}


def decode_g722(path: Path) -> np.ndarray:
    """Decode raw G.722 at 64 kbit/s: ``(S,)`` int16, 16 kHz.

    Raises:
        UserError: if PyAV is missing (``pip install av``), or the file holds no audio.
    """
    try:
        import av
    except ImportError as error:
        raise UserError("PyAV is needed to decode G.722, but is missing: `pip install av`.") from error
    if path.stat().st_size == 0:
        raise UserError(f"{path}: must hold audio, but is empty.")
    with av.open(str(path), format="g722") as container:
        return np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])


def english_splits(prompts: list[Prompt]) -> tuple[dict[str, str], dict[str, str]]:
    """Split and transcript of the English prompts.

    Returns:
        the split of every prompt: ``train``, ``dev``, ``test``, or ``extra`` if it is too long or its
        reading is uncertain; and the transcript of every prompt that is not in ``extra``.
    """
    texts, labelled = {}, set()
    for prompt in prompts:
        text = CORRECTED.get(prompt.name, prompt.text)
        for wrong, right in MISSPELT.items():
            text = text.replace(wrong, right)
        transcript = normalize_transcript(text)
        if transcript and prompt.name not in UNCERTAIN and prompt.seconds <= LONGEST:
            labelled.add(prompt.name)
        # The words of an unlabelled prompt are needed too: no similar prompt may be in dev or test.
        texts[prompt.name] = transcript or " ".join(re.findall("[A-Z']+", text.upper()))
    splits = assign_splits(texts, seed=SEED, keep_in_train=texts.keys() - labelled)
    splits.update({name: "extra" for name in texts if name not in labelled})
    return splits, {name: texts[name] for name in sorted(labelled)}


def build_embedded_speech(target: Path, *, packages: Path) -> dict[str, Any]:
    """Write the embedded corpus; ``LICENSE.md`` beside it is not changed.

    The lists depend only on the packages, the samples also on the versions of libsndfile and
    libopus. The bytes differ every time: Ogg numbers its streams at random.

    Args:
        target: folder of the corpus; its splits are replaced.
        packages: folder for the downloaded packages.

    Returns:
        the content of ``corpus.json``.
    """
    # Built in a temporary folder, so that an existing corpus survives a failed attempt.
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    sources, rows = [], []
    for language, voice in VOICES.items():
        if voice.compression is None:
            continue
        fetched, prompts = fetch_prompts(language, packages)
        sources += [_source(package, voice) for package in fetched]
        splits, transcripts = english_splits(prompts) if language == "en" else ({}, {})
        for prompt in prompts:
            split = splits.get(prompt.name, "extra")
            transcript = transcripts.get(prompt.name, prompt.text)
            _write_utterance(partial / split, prompt, transcript=transcript, voice=voice)
            row = (prompt.utterance, split, language, f"{prompt.seconds:.3f}", prompt.name)
            rows.append(row)
        logger.info("%s: %d prompts.", language, len(prompts))
    table = [("utterance", "split", "language", "seconds", "prompt"), *rows]
    text = "".join("\t".join(row) + "\n" for row in table)
    (partial / "prompts.tsv").write_text(text, encoding="utf-8")
    summary = {"sample_rate": SAMPLE_RATE, "seed": SEED, "sources": sources, "splits": _totals(rows)}
    (partial / "corpus.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    target.mkdir(parents=True, exist_ok=True)
    for split in (*LABELLED_SPLITS, "extra"):
        shutil.rmtree(target / split, ignore_errors=True)
    for made in sorted(partial.iterdir()):
        made.replace(target / made.name)
    partial.rmdir()
    return summary


def _write_utterance(split: Path, prompt: Prompt, *, transcript: str, voice: Voice) -> None:
    speaker, chapter, _ = prompt.utterance.split("-")
    folder = split / speaker / chapter
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        folder / f"{prompt.utterance}.ogg",
        decode_g722(prompt.path),
        SAMPLE_RATE,
        format="OGG",
        subtype="OPUS",
        compression_level=voice.compression,
    )
    if transcript:
        with open(folder / f"{speaker}-{chapter}.trans.txt", "a", encoding="utf-8") as listing:
            listing.write(f"{prompt.utterance} {transcript}\n")


def _source(package: DebianPackage, voice: Voice) -> dict[str, str]:
    return {
        "package": package.name,
        "version": package.version,
        "sha256": package.sha256,
        "licence": voice.licence,
    }


def _totals(rows: list[tuple[str, ...]]) -> dict[str, dict[str, dict[str, float]]]:
    """Utterances and minutes by split and language."""
    totals: dict[str, dict[str, dict[str, float]]] = {}
    for _, split, language, seconds, _ in sorted(rows, key=lambda row: row[1:3]):
        entry = totals.setdefault(split, {}).setdefault(language, {"utterances": 0, "minutes": 0.0})
        entry["utterances"] += 1
        entry["minutes"] += float(seconds) / 60
    for languages in totals.values():
        for entry in languages.values():
            entry["minutes"] = round(entry["minutes"], 2)
    return totals
