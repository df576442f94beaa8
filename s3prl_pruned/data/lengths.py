"""How long audio files are, from their headers: read by threads, once per machine, and kept.

Opening hundreds of thousands of files takes minutes, and hours on a network disk. What was read is kept in
`$XDG_CACHE_HOME/s3prl_pruned/lengths` (or below `~/.cache`), one file a corpus folder. It is checked: a file whose size
or times are not those that were kept is opened again. Processes of one machine that start together take turns, so that
the first reads the headers and the others what it kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TypeVar

import soundfile

from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import num_samples
from s3prl_pruned.progress import progress

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

KEPT_FROM = 1_000
"""Files. Fewer are read in a second, and nothing is kept of them."""

JOBS = 16
"""Threads: opening files waits for disks, not for the processor."""

_Look = tuple[str, list[int] | None, int | UserError]
"""A file's name below the corpus, its size and times, and its length or what is wrong with it."""


def late_bar(results: Iterable, total: int) -> Iterable:
    """`progress` for what only takes long where a corpus is large or far away."""
    return progress(results, total=total, desc="corpus", unit="file", delay=5, leave=False)


def lengths_of(
    paths: Sequence[Path],
    *,
    root: Path,
    jobs: int = JOBS,
    progress: Callable[..., Iterable] = late_bar,
) -> list[int | UserError]:
    """The length of each file in samples at 16 kHz, or what is wrong with it.

    Args:
        paths: the files.
        root: the corpus that they are of; what is kept goes by it.
        jobs: threads that look at the files.
        progress: called with the results to come and their number, such as `tqdm`.
    """
    place, below = _kept_at(root) if len(paths) >= KEPT_FROM else None, os.fspath(root)
    with _turn(place):
        kept = _read(place)

        def look(path: Path) -> _Look:
            name, stamp = os.fspath(path).removeprefix(below), _stamp(path)
            old = kept.get(name)
            if old is not None and stamp is not None and old[:-1] == stamp:
                return name, stamp, old[-1]
            try:
                return name, stamp, num_samples(path)
            except UserError as error:
                return name, stamp, error

        lengths: list[int | UserError] = []
        new: dict[str, list[int]] = {}
        try:
            for name, stamp, length in progress(threaded(look, paths, jobs), total=len(paths)):
                lengths.append(length)
                if stamp is not None and not isinstance(length, UserError):
                    new[name] = [*stamp, length]
        finally:  # also what an interrupted process has read
            if place is not None and any(kept.get(name) != entry for name, entry in new.items()):
                _write(place, kept | new)
    return lengths


def threaded(function: Callable[[T], R], items: Sequence[T], jobs: int) -> Iterator[R]:
    """`map` in order, by `jobs` threads."""
    if jobs == 1:
        yield from map(function, items)
        return
    with ThreadPool(jobs) as pool:
        yield from pool.imap(function, items, chunksize=8)


def _stamp(path: Path) -> list[int] | None:
    """What changes when a file does; None where it cannot be looked at."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _kept_at(root: Path) -> Path | None:
    """The file of a corpus; None where no folder can be written for it."""
    key = f"{os.path.realpath(root)} {soundfile.__libsndfile_version__}"
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "s3prl_pruned" / "lengths"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        logger.info("lengths of audio files are not kept: %s", error)
        return None
    return folder / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:16]}.json"


@contextlib.contextmanager
def _turn(place: Path | None) -> Iterator[None]:
    """Wait until no other process reads the same corpus. A process that ends, however, gives its turn away."""
    with contextlib.ExitStack() as stack:
        if place is not None:
            try:
                file = stack.enter_context(open(place.with_suffix(".lock"), "ab"))
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:  # a disk without locks, or one that may not be written: each reads for itself
                logger.info("processes do not take turns in reading the corpus: %s", error)
        yield


def _read(place: Path | None) -> dict[str, list[int]]:
    try:
        kept = json.loads(place.read_bytes()) if place is not None else {}
    except (OSError, ValueError):
        return {}
    sound = isinstance(kept, dict) and all(
        isinstance(entry, list) and len(entry) == 4 and all(isinstance(number, int) for number in entry)
        for entry in kept.values()
    )
    return kept if sound else {}


def _write(place: Path, kept: dict[str, list[int]]) -> None:
    temporary = place.with_suffix(f".{os.getpid()}")
    try:
        temporary.write_text(json.dumps(kept), encoding="ascii")
        os.replace(temporary, place)
    except OSError as error:
        logger.info("lengths of audio files are not kept: %s", error)
        with contextlib.suppress(OSError):
            temporary.unlink()
