"""What every driver does with its corpus: find its parts, check its audio, cache lists of it.

The cache is a folder below ``$XDG_CACHE_HOME`` (or ``~/.cache``); s3prl keeps such lists beside its own code.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TypeVar

from s3prl_pruned.compat import audio
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.progress import progress
from s3prl_pruned.superb.results.result import SplitRead

T = TypeVar("T")

MANY, THREADS = 1000, 16
"""From this many files on, they are processed in this many threads."""


def require(corpus: Path, parts: Iterable[str], *, layout: str) -> None:
    """Check that a corpus holds its parts, naming all that are missing in one error.

    Args:
        corpus: the corpus's folder.
        parts: files and folders below the corpus; a name that ends in ``/`` must be a folder.
        layout: the corpus in words, and where its folder comes from, for the message.

    Raises:
        UserError: with what is missing and what was found.
    """
    missing = [
        part for part in parts if not ((corpus / part).is_dir() if part.endswith("/") else (corpus / part).is_file())
    ]
    if missing:
        there = sorted(path.name for path in corpus.iterdir())[:8] if corpus.is_dir() else []
        found = ", ".join(there) or ("nothing" if corpus.is_dir() else "no such folder")
        raise UserError(
            f"{corpus}: must be {layout}, but lacks {', '.join(missing[:5])}"
            f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''} (there: {found}). "
            "Give its folder by --corpus."
        )


def refuse_missing_files(root: Path, names: Iterable[str], listing: str) -> None:
    """Check that every file of a list exists.

    Args:
        root: the corpus, or a folder of it.
        names: paths below ``root``.
        listing: the list's name, for the message.

    Raises:
        UserError: with the number of missing files and the first of them.
    """
    names = list(names)
    there = map_files([root / name for name in names], Path.is_file, what=f"files of {root}")
    missing = [name for name, found in zip(names, there, strict=True) if not found]
    if missing:
        raise UserError(
            f"{root}: must hold every file of {listing}, but {len(missing)} are missing "
            f"(first {', '.join(missing[:3])})."
        )


def check_audio(paths: Iterable[Path], *, why: str) -> None:
    """Check by their headers that files are mono at 16 kHz.

    Args:
        paths: the files.
        why: what s3prl would do with other files, for the message.

    Raises:
        UserError: on the first file that is not, or that cannot be decoded.
    """
    paths = list(paths)
    for path, found in zip(paths, map_files(paths, audio.info, what="audio"), strict=True):
        if (found.sample_rate, found.num_channels) != (SAMPLE_RATE, 1):
            raise UserError(
                f"{path}: must be {SAMPLE_RATE} Hz mono ({why}), but has {found.sample_rate} Hz and "
                f"{found.num_channels} channel(s)."
            )


def check_audio_once(paths: Iterable[Path], *, cache: Path, why: str) -> None:
    """``check_audio``, but only the first time, since it opens every file.

    Args:
        paths: the files.
        cache: ``splits_folder`` of the corpus; a file in it records that the audio was checked.
        why: as in ``check_audio``.

    Raises:
        UserError: as in ``check_audio``.
    """
    if not (cache / "checked").is_file():
        check_audio(paths, why=why)
        write_once(cache / "checked", "")


def digest(root: Path, names: Iterable[str], *, more: str = "") -> str:
    """SHA-256 of files' names and sizes, and of further text such as labels.

    Args:
        root: the corpus, or a folder of it.
        names: paths below ``root``; their order matters.
        more: the further text.
    """
    found, names = hashlib.sha256(more.encode()), list(names)
    sizes = map_files([root / name for name in names], lambda path: path.stat().st_size, what=f"sizes in {root}")
    for name, size in zip(names, sizes, strict=True):
        found.update(f"{name} {size}\n".encode())
    return found.hexdigest()


def map_files(paths: Sequence[Path], function: Callable[[Path], T], *, what: str) -> list[T]:
    """Call a function for every path; in threads if there are many, since a network disk is slow for each.

    Args:
        paths: the files.
        function: called with each path; its first exception is raised.
        what: the label of the progress bar.
    """
    if len(paths) < MANY:
        return [function(path) for path in paths]
    with ThreadPool(THREADS) as pool:
        return list(progress(pool.imap(function, paths, chunksize=64), total=len(paths), desc=what))


def cache_folder(kind: str, key: str) -> Path:
    """A folder below ``$XDG_CACHE_HOME`` (or ``~/.cache``) for lists of one corpus, made if needed.

    Args:
        kind: the kind of lists, such as ``voxceleb1``.
        key: what the lists depend on: the corpus's path and content.

    Raises:
        UserError: if the folder cannot be made.
    """
    folder = cache_root() / kind / hashlib.sha256(key.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error}). Set XDG_CACHE_HOME elsewhere.") from error
    return folder


def splits_folder(kind: str, corpus: Path, splits: Iterable[SplitRead]) -> Path:
    """``cache_folder`` of a corpus with these splits."""
    return cache_folder(kind, " ".join([str(corpus.resolve()), *(split.sha256 for split in splits)]))


def is_cached(path: Path) -> bool:
    """Whether a file is in the cache, and so was made from a corpus and not named by a user."""
    return cache_root().resolve() in path.resolve().parents


def cache_root() -> Path:
    """The folder that holds everything made from corpora."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "s3prl_pruned"
    except RuntimeError as error:  # a container's user without HOME and without a line in /etc/passwd
        raise UserError("there is no home folder to keep lists in. Set XDG_CACHE_HOME to a folder.") from error


def write_once(path: Path, content: bytes | str, *, afresh: bool = False) -> Path:
    """Write a file of the cache, under a temporary name first; an existing file is left as it is.

    Args:
        path: the file.
        content: bytes, or text to write as UTF-8.
        afresh: replace an existing file.

    Raises:
        UserError: if the file cannot be written.
    """
    if path.is_file() and not afresh:
        return path
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error}). Set XDG_CACHE_HOME elsewhere.") from error
    return path


def find_listing(
    corpus: Path,
    names: tuple[str, ...],
    *,
    s3prl_root: Path | None,
    s3prl_file: str,
    named: str | None,
    what: str,
    source: str,
) -> Path:
    """Find a list that belongs to the benchmark: the one in the settings, else s3prl's, else the corpus's own.

    Args:
        corpus: the corpus's folder.
        names: names of the list in the corpus, the usual name first.
        s3prl_root: a checkout of s3prl, or None.
        s3prl_file: path of the list below `s3prl_root`.
        named: path in the settings; our own copies in the cache are ignored.
        what: the list in words, such as "VoxCeleb1's list of trials".
        source: where to get the list.

    Raises:
        UserError: if the list is in none of these places.
    """
    places = [corpus / name for name in names]
    if s3prl_root is not None:
        places.insert(0, s3prl_root / s3prl_file)
    if named is not None and not is_cached(Path(named)):
        places.insert(0, Path(named))
    for path in places:
        if path.is_file():
            return path
    raise UserError(
        f"{corpus}: must hold {what}, {names[0]}, but does not. Get it from {source}, or give a checkout of "
        "s3prl by --s3prl-root."
    )
