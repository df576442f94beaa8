"""List every file below some folders once, whichever links lead to it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

from s3prl_pruned.config import UserError

AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".opus", ".mp3")

_PASSED_OVER = "lost+found"
"""At the top of a mounted disk; only its administrator may read it."""

_Place = tuple[str, str]
"""A path as it is reached from the corpus, and the real path with all links resolved."""


@dataclass
class _Content:
    """What one folder holds."""

    files: list[_Place] = field(default_factory=list)
    folders: list[_Place] = field(default_factory=list)
    linked_files: list[_Place] = field(default_factory=list)
    linked_folders: list[_Place] = field(default_factory=list)


def files_below(folders: Iterable[Path], suffixes: tuple[str, ...] = AUDIO_SUFFIXES, *, jobs: int = 16) -> list[Path]:
    """The sorted paths of all files below ``folders`` whose names end in one of ``suffixes``, ignoring case.

    Links are followed, since corpora are often put together from links, but a file or folder with several names is
    listed once: under its own name if that is below ``folders``. So a link to a parent folder makes no loop.
    Names that begin with a dot are skipped: file systems and version control keep copies under such names.

    Args:
        folders: existing folders.
        suffixes: in lower case.
        jobs: number of threads; listing a folder waits for the disk.

    Raises:
        UserError: a folder cannot be listed, so that an unknown part of the corpus would be missing.
    """
    seen: set[str] = set()
    found: list[_Place] = []
    linked_files: list[_Place] = []
    level = [(str(folder), os.path.realpath(folder)) for folder in sorted(set(folders))]
    with ThreadPool(jobs) as pool:
        while level:  # all real folders below these, then what they link to, and so on
            linked_folders: list[_Place] = []
            while level := _unseen(level, seen):
                contents = pool.map(partial(_list, suffixes=suffixes), level, chunksize=1)
                found += [place for content in contents for place in content.files]
                linked_files += [place for content in contents for place in content.linked_files]
                linked_folders += [place for content in contents for place in content.linked_folders]
                level = [place for content in contents for place in content.folders]
            level = sorted(linked_folders)
    return sorted(Path(name) for name, _ in [*found, *_unseen(sorted(linked_files), {real for _, real in found})])


def files_at_depth(folder: Path, depth: int, suffixes: tuple[str, ...] = AUDIO_SUFFIXES) -> list[Path]:
    """``files_below(folder)`` whose relative path has ``depth`` parts; none if there is no such folder."""
    if not is_folder(folder):
        return []
    return [path for path in files_below([folder], suffixes) if len(path.relative_to(folder).parts) == depth]


def is_folder(path: Path) -> bool:
    """Whether a path is an existing folder.

    Raises:
        UserError: the path may not be accessed.
    """
    try:
        return path.is_dir()
    except OSError as error:
        raise UserError(f"{path}: cannot be accessed ({error.strerror}). Change its permissions.") from error


def _unseen(places: Sequence[_Place], seen: set[str]) -> list[_Place]:
    """The places whose real path is not in ``seen`` yet; it is added there."""
    new = []
    for place in places:
        if place[1] not in seen:
            seen.add(place[1])
            new.append(place)
    return new


def _list(folder: _Place, *, suffixes: tuple[str, ...]) -> _Content:
    name, real = folder
    content = _Content()
    try:
        with os.scandir(name) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == _PASSED_OVER:
                    continue
                of_kind = entry.name.lower().endswith(suffixes)
                below, is_link = _is_folder(entry, of_kind), entry.is_symlink()
                if below or of_kind:
                    place = (entry.path, os.path.realpath(entry.path) if is_link else os.path.join(real, entry.name))
                    if below:
                        (content.linked_folders if is_link else content.folders).append(place)
                    else:
                        (content.linked_files if is_link else content.files).append(place)
    except OSError as error:
        raise UserError(
            f"{error.filename or name}: cannot be listed ({error.strerror}), so that its part of the corpus would be "
            "missing. Change its permissions, or name the folders to take (`sets`)."
        ) from error
    return content


def _is_folder(entry: os.DirEntry, of_kind: bool) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # the target of a link
        if error.errno == errno.ELOOP or of_kind:  # opening it will report the error
            return False
        raise
