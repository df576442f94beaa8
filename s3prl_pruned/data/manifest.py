"""Which utterances a corpus holds: any folder of audio, LibriSpeech's layout included."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE, num_samples, read_waveform

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
    seconds: tuple[float, float] | None = None
    """Start and duration, where the utterance is a piece of the file."""
    span: tuple[int, int] | None = None
    """First byte and number of bytes, where ``path`` is an uncompressed archive that holds the audio file."""

    def read(self) -> torch.Tensor:
        """``(S,)`` float32, see ``read_waveform``."""
        return read_waveform(self.path, seconds=self.seconds, span=self.span)


def scan_corpus(
    root: str | Path,
    splits: Sequence[str] | None = None,
    *,
    max_bad_fraction: float = 0.01,
    jobs: int = 1,
    progress: Callable[..., Iterable] = lambda items, total: items,
) -> list[Utterance]:
    """List a corpus, sorted by id, so that the order does not depend on the file system.

    Only headers are read. Files whose header is unreadable are left out, counted and named in a
    warning. Names that begin with a dot are passed over.

    Args:
        root: the corpus folder; every audio file below it counts.
        splits: take only these folders of it, such as ``["train-clean-100"]``; ``None`` is all.
        max_bad_fraction: the share of unreadable files above which the corpus is refused.
        jobs: threads that read headers.
        progress: called with the results to come and their number, such as ``tqdm``.

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
    for length, path in zip(progress(_map(_length_or_error, paths, jobs), total=len(paths)), paths, strict=True):
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


def refuse_missing_files(utterances: Sequence[Utterance], *, where: str, look_at: int = 200, jobs: int = 8) -> None:
    """Look for the files of ``look_at`` utterances spread over the corpus; 0 looks for all of them.

    Raises:
        UserError: if more than 1 % of those looked at are missing. (Fewer are named in a warning.)
    """
    stride = max(1, len(utterances) // look_at) if look_at else 1
    paths = sorted({utterances[i].path for i in range(0, len(utterances), stride)})
    there = _map(Path.is_file, paths, jobs)
    bad = {str(path): f"{path}: no such file." for path, found in zip(paths, there, strict=True) if not found}
    refuse_many_bad(bad, total=len(paths), max_fraction=0.01, where=where)
    if bad:
        logger.warning("%s: %d of %d files looked for are missing:\n%s", where, len(bad), len(paths), _first(bad))


def refuse_many_bad(bad: dict[str, str], *, total: int, max_fraction: float, where: str) -> None:
    """Stop when more than ``max_fraction`` of ``total`` files are in ``bad`` (id to its message)."""
    if len(bad) > max_fraction * total:
        raise UserError(
            f"{where}: {len(bad)} of {total} audio files cannot be read, and at most "
            f"{100 * max_fraction:g} % may be left out. Repair or remove them; the first are:\n" + _first(bad)
        )


def _length_or_error(path: Path) -> int | UserError:
    try:
        return num_samples(path)
    except UserError as error:
        return error


def _map(function: Callable, items: Sequence, jobs: int) -> Iterator:
    """``map`` in order by ``jobs`` threads: reading headers waits for disks, not for the processor."""
    if jobs == 1:
        yield from map(function, items)
        return
    with ThreadPool(jobs) as pool:
        yield from pool.imap(function, items, chunksize=64)


def _first(bad: dict[str, str], count: int = 5) -> str:
    return "\n".join(f"  {message}" for message in list(bad.values())[:count])


def _folders(root: Path, splits: Sequence[str] | None) -> list[Path]:
    if splits is None:
        return [root]
    for split in splits:
        if not (root / split).is_dir():
            there = sorted(path.name for path in root.iterdir() if path.is_dir())
            raise UserError(f"{root}: has no split {split!r}. Its folders are: {', '.join(there) or 'none'}.")
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
