"""List the utterances of a corpus: any folder of audio, such as one in LibriSpeech's layout."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.data.lengths import JOBS, late_bar, lengths_of, threaded
from s3prl_pruned.data.listing import AUDIO_SUFFIXES, files_below, is_folder
from s3prl_pruned.data.waveforms import SAMPLE_RATE, read_waveform

logger = logging.getLogger(__name__)

CHANGED_SECONDS = 0.25
"""A file that is this much shorter than listed has changed. (Decoders differ by 0.1 s at the ends of an MP3.)"""

OPTION = "-o pretrain_expert.datarc.sets=[...]; in tools/prepare_data.py: --sets ..."
"""How a user chooses folders of a corpus."""


@dataclass(frozen=True)
class Utterance:
    """One audio file."""

    id: str
    """Its path relative to the corpus, without the suffix, such as ``dev-clean/84/121123/84-121123-0000``."""
    path: Path
    num_samples: int
    """Length in samples at 16 kHz."""
    seconds: tuple[float, float] | None = None
    """Start and duration, where the utterance is a piece of the file."""
    span: tuple[int, int] | None = None
    """First byte and number of bytes, where ``path`` is an uncompressed archive that holds the audio file."""

    def read(self) -> torch.Tensor:
        """``(S,)`` float32, see ``read_waveform``.

        Raises:
            UserError: as ``read_waveform``, or the file is shorter than listed.
        """
        wav = read_waveform(self.path, seconds=self.seconds, span=self.span)
        if len(wav) < self.num_samples - CHANGED_SECONDS * SAMPLE_RATE:
            raise UserError(
                f"{self.path}: was listed with {self.num_samples} samples at 16 kHz, but has {len(wav)}. It has "
                "changed since, or the list is wrong. Restore it, or list the corpus again."
            )
        return wav


def scan_corpus(
    root: str | Path,
    splits: Sequence[str] | None = None,
    *,
    max_bad_fraction: float = 0.01,
    jobs: int = JOBS,
    progress: Callable[..., Iterable] = late_bar,
) -> list[Utterance]:
    """List a corpus, sorted by id, so that the order does not depend on the file system.

    Only headers are read, and those that this machine has cached (``lengths_of``) are not read again. Unreadable files
    are left out, counted and named in a warning. Names that begin with a dot are skipped; a file that several links
    lead to counts once (``files_below``).

    Args:
        root: the corpus folder; every audio file below it counts.
        splits: take only these folders of it, such as ``["train-clean-100"]``; ``None`` is all.
        max_bad_fraction: the share of unreadable files above which the corpus is refused.
        jobs: number of threads that list folders and read headers.
        progress: called with an iterator over the results and ``total``, such as ``tqdm``.

    Raises:
        UserError: if a folder is missing or cannot be listed, no audio is there, too much of it is unreadable, or two
            files differ in their suffix only (the same speech would count twice).
    """
    root = Path(root)
    if not is_folder(root):
        raise UserError(f"{root}: no such corpus folder. Give the folder that holds the audio.")
    paths = files_below(_folders(root, splits), jobs=jobs)
    if not paths:
        place = f" under {', '.join(splits)}" if splits else ""
        raise UserError(
            f"{root}: a corpus must hold audio ({', '.join(AUDIO_SUFFIXES)}), but 0 such files "
            f"were found{place}. Give the folder that holds it."
        )
    utterances, bad = [], {}
    for length, path in zip(lengths_of(paths, root=root, jobs=jobs, progress=progress), paths, strict=True):
        if isinstance(length, UserError):
            bad[str(path)] = str(length)
            continue
        utterances.append(Utterance(path.relative_to(root).with_suffix("").as_posix(), path, length))
    refuse_many_bad(bad, total=len(paths), max_fraction=max_bad_fraction, where=str(root))
    if bad:
        logger.warning("%s: %d unreadable files are left out:\n%s", root, len(bad), _first(bad))
    _refuse_twins(utterances)
    hours = sum(utterance.num_samples for utterance in utterances) / SAMPLE_RATE / 3600
    logger.info("%s: %d utterances, %.2f h.", root, len(utterances), hours)
    return sorted(utterances, key=lambda utterance: utterance.id)


def refuse_missing_files(
    utterances: Sequence[Utterance],
    *,
    where: str,
    look_at: int = 200,
    jobs: int = JOBS,
    progress: Callable[..., Iterable] = late_bar,
) -> None:
    """Check that the files are there of ``look_at`` utterances, spread over the corpus.

    Args:
        utterances: the corpus.
        where: its name in messages.
        look_at: how many utterances to check; 0 checks all of them.
        jobs: number of threads.
        progress: called with an iterator over the results and ``total``, such as ``tqdm``.

    Raises:
        UserError: if more than 1 % of the files checked are missing or may not be read. (Fewer are named in a warning.)
    """
    stride = max(1, len(utterances) // look_at) if look_at else 1
    paths = sorted({utterances[i].path for i in range(0, len(utterances), stride)})
    found = progress(threaded(_problem, paths, jobs), total=len(paths))
    bad = {str(path): f"{path}: {problem}." for path, problem in zip(paths, found, strict=True) if problem}
    refuse_many_bad(bad, total=len(paths), max_fraction=0.01, where=where)
    if bad:
        logger.warning("%s: %d of %d files checked are missing:\n%s", where, len(bad), len(paths), _first(bad))


def speech_digest(utterances: Iterable[Utterance], *, texts: Iterable[str] = ()) -> str:
    """SHA-256 of what a run sees of a corpus: the ids and lengths in their order, and the transcripts.

    It does not change when the corpus is copied, moved, mounted elsewhere or listed in a manifest.

    Args:
        utterances: the corpus, in order.
        texts: transcripts.
    """
    digest = hashlib.sha256()
    for utterance in utterances:
        digest.update(os.fsencode(f"{utterance.num_samples} {utterance.id}\n"))
    for text in texts:
        digest.update(f"{text}\n".encode())
    return digest.hexdigest()


def refuse_many_bad(bad: dict[str, str], *, total: int, max_fraction: float, where: str) -> None:
    """Raise UserError if more than ``max_fraction`` of ``total`` files are in ``bad`` (messages by id)."""
    if len(bad) > max_fraction * total:
        raise UserError(
            f"{where}: {len(bad)} of {total} audio files cannot be read, and at most "
            f"{100 * max_fraction:g} % may be left out. Repair or remove them; the first are:\n" + _first(bad)
        )


def _problem(path: Path) -> str | None:
    """Why a file cannot be opened; None if it can."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "is not a file"
    except PermissionError as error:
        return f"may not be read ({error.strerror})"
    except (OSError, ValueError):
        return "no such file"
    return None if os.access(path, os.R_OK) else "may not be read"


def _first(bad: dict[str, str], count: int = 5) -> str:
    return "\n".join(f"  {message}" for message in list(bad.values())[:count])


def _folders(root: Path, splits: Sequence[str] | None) -> list[Path]:
    if splits is None:
        return [root]
    for split in splits:
        if not is_folder(root / split):
            there = sorted(path.name for path in root.iterdir() if path.is_dir())
            raise UserError(
                f"{root}: has no split {split!r}. Its folders are: {', '.join(there) or 'none'}. Name those to take: "
                f"{OPTION}."
            )
    return [root / split for split in splits]


def _refuse_twins(utterances: list[Utterance]) -> None:
    seen: dict[str, Path] = {}
    for utterance in utterances:
        if utterance.id in seen:
            raise UserError(
                f"{seen[utterance.id]} and {utterance.path.name}: two files of one name; the same "
                "speech would count twice. Keep one format."
            )
        seen[utterance.id] = utterance.path
