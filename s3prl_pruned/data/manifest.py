"""Which utterances a corpus holds: any folder of audio, LibriSpeech's layout included."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE, num_samples

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".opus", ".mp3")


@dataclass(frozen=True)
class Utterance:
    """One audio file."""

    id: str
    """Its path below the corpus without the suffix, such as ``dev-clean/84/121123/84-121123-0000``."""
    path: Path
    num_samples: int
    """Length in samples at 16 kHz."""


def scan_corpus(
    root: str | Path, splits: Sequence[str] | None = None, *, max_bad_fraction: float = 0.01
) -> list[Utterance]:
    """List a corpus, sorted by id, so that the order does not depend on the file system.

    Only headers are read. Files whose header is unreadable are left out, counted and named in a
    warning. Names that begin with a dot are passed over.

    Args:
        root: the corpus folder; every audio file below it counts.
        splits: take only these folders of it, such as ``["train-clean-100"]``; ``None`` is all.
        max_bad_fraction: the share of unreadable files above which the corpus is refused.

    Raises:
        UserError: if a folder is missing, no audio is there, too much of it is unreadable, or two
            files differ in their suffix only (the same speech would count twice).
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such corpus folder. Give the folder that holds the audio.")
    paths = sorted({path for folder in _folders(root, splits) for path in _audio_files(folder)})
    if not paths:
        place = f" under {', '.join(splits)}" if splits else ""
        raise UserError(
            f"{root}: a corpus must hold audio ({', '.join(AUDIO_SUFFIXES)}), but 0 such files "
            f"were found{place}. Give the folder that holds it."
        )
    utterances, bad = [], {}
    for path in paths:
        try:
            length = num_samples(path)
        except UserError as error:
            bad[str(path)] = str(error)
            continue
        utterances.append(Utterance(path.relative_to(root).with_suffix("").as_posix(), path, length))
    refuse_many_bad(bad, total=len(paths), max_fraction=max_bad_fraction, where=str(root))
    if bad:
        logger.warning("%s: %d unreadable files are left out:\n%s", root, len(bad), _first(bad))
    _refuse_twins(utterances)
    hours = sum(utterance.num_samples for utterance in utterances) / SAMPLE_RATE / 3600
    logger.info("%s: %d utterances, %.2f h.", root, len(utterances), hours)
    return sorted(utterances, key=lambda utterance: utterance.id)


def refuse_many_bad(bad: dict[str, str], *, total: int, max_fraction: float, where: str) -> None:
    """Stop when more than ``max_fraction`` of ``total`` files are in ``bad`` (id to its message)."""
    if len(bad) > max_fraction * total:
        raise UserError(
            f"{where}: {len(bad)} of {total} audio files cannot be read, and at most "
            f"{100 * max_fraction:g} % may be left out. Repair or remove them; the first are:\n"
            + _first(bad)
        )


def _first(bad: dict[str, str], count: int = 5) -> str:
    return "\n".join(f"  {message}" for message in list(bad.values())[:count])


def _folders(root: Path, splits: Sequence[str] | None) -> list[Path]:
    if splits is None:
        return [root]
    for split in splits:
        if not (root / split).is_dir():
            there = sorted(path.name for path in root.iterdir() if path.is_dir())
            raise UserError(
                f"{root}: has no split {split!r}. Its folders are: {', '.join(there) or 'none'}."
            )
    return [root / split for split in splits]


def _audio_files(folder: Path) -> list[Path]:
    # os.walk follows links to folders, which Path.rglob does not; corpora are often linked together.
    return [
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(AUDIO_SUFFIXES) and not name.startswith(".")
    ]


def _refuse_twins(utterances: list[Utterance]) -> None:
    seen: dict[str, Path] = {}
    for utterance in utterances:
        if utterance.id in seen:
            raise UserError(
                f"{seen[utterance.id]} and {utterance.path.name}: two files of one name; the same "
                "speech would count twice. Keep one format."
            )
        seen[utterance.id] = utterance.path
