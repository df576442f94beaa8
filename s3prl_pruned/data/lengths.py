"""Lengths of audio files, read from their headers by threads, once per machine, and cached.

Opening hundreds of thousands of files takes minutes, and hours on a network disk. The lengths are cached in
`$XDG_CACHE_HOME/s3prl_pruned/lengths` (or below `~/.cache`), in one file per corpus folder. An audio file whose size or
times have changed since is opened again. Processes on one machine that start together take turns, so that the first
reads the headers and the others read the cache.
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
"""Number of files from which on lengths are cached; fewer are read within a second."""

JOBS = 16
"""Number of threads: opening files waits for the disk, not for the processor."""

_Measured = tuple[str, list[int] | None, int | UserError]
"""A file's path relative to the corpus, its size and times, and its length or the error."""


def late_bar(results: Iterable, total: int) -> Iterable:
    """`progress` that appears after 5 s: only a large or remote corpus takes that long."""
    return progress(results, total=total, desc="corpus", unit="file", delay=5, leave=False)


def lengths_of(
    paths: Sequence[Path],
    *,
    root: Path,
    jobs: int = JOBS,
    progress: Callable[..., Iterable] = late_bar,
) -> list[int | UserError]:
    """The length of each file in samples at 16 kHz, or the error.

    Args:
        paths: the files.
        root: the corpus folder, which has its own cache file.
        jobs: number of threads that open files.
        progress: called with an iterator over the results and `total`, such as `tqdm`.
    """
    place, below = _kept_at(root) if len(paths) >= KEPT_FROM else None, os.fspath(root)
    with _turn(place):
        kept = _read(place)

        def measure(path: Path) -> _Measured:
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
            for name, stamp, length in progress(threaded(measure, paths, jobs), total=len(paths)):
                lengths.append(length)
                if stamp is not None and not isinstance(length, UserError):
                    new[name] = [*stamp, length]
        finally:  # an interrupted process caches what it has read, too
            if place is not None and any(kept.get(name) != entry for name, entry in new.items()):
                _write(place, kept | new)
    return lengths


def threaded(function: Callable[[T], R], items: Sequence[T], jobs: int) -> Iterator[R]:
    """`map` with `jobs` threads; results come in order."""
    if jobs == 1:
        yield from map(function, items)
        return
    with ThreadPool(jobs) as pool:
        yield from pool.imap(function, items, chunksize=8)


def _stamp(path: Path) -> list[int] | None:
    """Size and times, which change when a file does; None if they cannot be read."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _kept_at(root: Path) -> Path | None:
    """The cache file of a corpus; None if its folder cannot be created."""
    key = f"{os.path.realpath(root)} {soundfile.__libsndfile_version__}"
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "s3prl_pruned" / "lengths"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
        logger.info("lengths of audio files are not cached: %s", error)
        return None
    return folder / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:16]}.json"


@contextlib.contextmanager
def _turn(place: Path | None) -> Iterator[None]:
    """Wait until no other process reads the same corpus. A process that ends, for any reason, frees its lock."""
    with contextlib.ExitStack() as stack:
        if place is not None:
            try:
                file = stack.enter_context(open(place.with_suffix(".lock"), "ab"))
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:  # no locks on this disk, or no write access: each process reads alone
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
        logger.info("lengths of audio files are not cached: %s", error)
        with contextlib.suppress(OSError):
            temporary.unlink()
