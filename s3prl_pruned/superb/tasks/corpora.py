"""What every driver does with its corpus: look for its parts, check its audio, keep lists of it in a cache.

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
"""From how many files on they are looked at in threads, and in how many."""


def require(corpus: Path, parts: Iterable[str], *, layout: str) -> None:
    """Check that a corpus holds its parts, naming all that are missing in one error.

    Args:
        corpus: its folder.
        parts: files and folders below the corpus; a name that ends in ``/`` must be a folder.
        layout: the corpus in words, and where its folder comes from, for the message.

    Raises:
        UserError: naming what is missing and what is there.
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
    """Check that every file of a list is there.

    Args:
        root: the corpus, or a folder of it.
        names: paths below ``root``.
        listing: which list says so, for the message.

    Raises:
        UserError: with the number of missing files and the first of them.
    """
    names = list(names)
    there = look_at([root / name for name in names], Path.is_file, what=f"files of {root}")
    missing = [name for name, found in zip(names, there, strict=True) if not found]
    if missing:
        raise UserError(
            f"{root}: must hold every file of {listing}, but {len(missing)} are missing "
            f"(first {', '.join(missing[:3])})."
        )


def check_audio(paths: Iterable[Path], *, why: str) -> None:
    """Check that files are mono at 16 kHz, from their headers.

    Args:
        paths: of the files.
        why: what s3prl would do with another file, for the message.

    Raises:
        UserError: at the first file that is not, or that cannot be decoded.
    """
    paths = list(paths)
    for path, found in zip(paths, look_at(paths, audio.info, what="audio"), strict=True):
        if (found.sample_rate, found.num_channels) != (SAMPLE_RATE, 1):
            raise UserError(
                f"{path}: must be {SAMPLE_RATE} Hz mono ({why}), but has {found.sample_rate} Hz and "
                f"{found.num_channels} channel(s)."
            )


def check_audio_once(paths: Iterable[Path], *, cache: Path, why: str) -> None:
    """``check_audio``, but only the first time: it opens every file.

    Args:
        paths: of the files.
        cache: ``splits_folder`` of the corpus; a file in it says that its audio was checked.
        why: as in ``check_audio``.

    Raises:
        UserError: as ``check_audio``.
    """
    if not (cache / "checked").is_file():
        check_audio(paths, why=why)
        write_once(cache / "checked", "")


def digest(root: Path, names: Iterable[str], *, more: str = "") -> str:
    """SHA-256 of files' names and sizes, and of further text such as labels.

    Args:
        root: the corpus, or a folder of it.
        names: paths below ``root``, in the order that matters.
        more: the further text.
    """
    found, names = hashlib.sha256(more.encode()), list(names)
    sizes = look_at([root / name for name in names], lambda path: path.stat().st_size, what=f"sizes in {root}")
    for name, size in zip(names, sizes, strict=True):
        found.update(f"{name} {size}\n".encode())
    return found.hexdigest()


def look_at(paths: Sequence[Path], look: Callable[[Path], T], *, what: str) -> list[T]:
    """Call a function for every path; for many in threads, since a network disk takes its time for each.

    Args:
        paths: of files.
        look: what is wanted of each; what it raises for the first of them is raised.
        what: for the progress bar.
    """
    if len(paths) < MANY:
        return [look(path) for path in paths]
    with ThreadPool(THREADS) as pool:
        return list(progress(pool.imap(look, paths, chunksize=64), total=len(paths), desc=what))


def cache_folder(kind: str, key: str) -> Path:
    """A folder below ``$XDG_CACHE_HOME`` (or ``~/.cache``) for lists of one corpus, made if needed.

    Args:
        kind: what is in it, such as ``voxceleb1``.
        key: what the lists depend on: the corpus' path and content.

    Raises:
        UserError: if it cannot be made.
    """
    folder = cache_root() / kind / hashlib.sha256(key.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error}). Set XDG_CACHE_HOME elsewhere.") from error
    return folder


def splits_folder(kind: str, corpus: Path, splits: Iterable[SplitRead]) -> Path:
    """``cache_folder`` of a corpus with these contents."""
    return cache_folder(kind, " ".join([str(corpus.resolve()), *(split.sha256 for split in splits)]))


def is_cached(path: Path) -> bool:
    """Whether a file is one of the cache, and so was made from a corpus and not named by a user."""
    return cache_root().resolve() in path.resolve().parents


def cache_root() -> Path:
    """The folder below which all that is made of corpora is kept."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "s3prl_pruned"
    except RuntimeError as error:  # a container's user without HOME and without a line in /etc/passwd
        raise UserError("there is no home folder to keep lists in. Set XDG_CACHE_HOME to a folder.") from error


def write_once(path: Path, content: bytes | str, *, afresh: bool = False) -> Path:
    """Write a file of the cache, under a temporary name first; one that is there already is left as it is.

    Args:
        path: of the file.
        content: bytes, or text for UTF-8.
        afresh: replace one that is there.

    Raises:
        UserError: if it cannot be written.
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
    """A list that belongs to the benchmark: what the settings name, else s3prl's, else the corpus' own.

    Args:
        corpus: its folder.
        names: what the list is called in the corpus, the usual name first.
        s3prl_root: a checkout of s3prl, or None.
        s3prl_file: where it is in a checkout of s3prl, below `s3prl_root`.
        named: path in the settings; one of our own copies does not count.
        what: "VoxCeleb1's list of trials".
        source: where it is to be had.

    Raises:
        UserError: it is in none of these places.
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
        f"{corpus}: must hold {what}, {names[0]}, but does not. It is to be had at {source}; or give a checkout of "
        "s3prl by --s3prl-root."
    )
