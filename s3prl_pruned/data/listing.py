"""Every file below some folders, once, by whatever links they are put together."""

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
"""At the top of a disk of its own, for its administrator alone."""

_Place = tuple[str, str]
"""A path below the corpus as it is named, and the real one where all links are followed."""


@dataclass
class _Content:
    """Of one folder."""

    files: list[_Place] = field(default_factory=list)
    folders: list[_Place] = field(default_factory=list)
    linked_files: list[_Place] = field(default_factory=list)
    linked_folders: list[_Place] = field(default_factory=list)


def files_below(folders: Iterable[Path], suffixes: tuple[str, ...] = AUDIO_SUFFIXES, *, jobs: int = 16) -> list[Path]:
    """The paths of all files below ``folders`` whose names end in one of ``suffixes``, in any case; sorted.

    Links are followed, since corpora are often linked together, but a file or folder that several names lead to
    counts once: under its own name where that is below ``folders``. So a link back to a folder above ends there.
    Names that begin with a dot are passed over: copies that file systems and version control keep.

    Args:
        folders: that are there.
        suffixes: in small letters.
        jobs: threads; listing a folder waits for the disk.

    Raises:
        UserError: a folder cannot be listed. (Nobody knows how much of the corpus it holds.)
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
    """``files_below`` one folder, those alone whose path below it has ``depth`` parts; none where it is not there."""
    if not is_folder(folder):
        return []
    return [path for path in files_below([folder], suffixes) if len(path.relative_to(folder).parts) == depth]


def is_folder(path: Path) -> bool:
    """Whether a folder is there.

    Raises:
        UserError: that cannot be seen.
    """
    try:
        return path.is_dir()
    except OSError as error:
        raise UserError(f"{path}: cannot be looked at ({error.strerror}). Change the rights.") from error


def _unseen(places: Sequence[_Place], seen: set[str]) -> list[_Place]:
    """Those whose real path is new; ``seen`` gets them."""
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
            "missing. Change its rights, or name the folders to take (`sets`)."
        ) from error
    return content


def _is_folder(entry: os.DirEntry, of_kind: bool) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # of a link: where it leads
        if error.errno == errno.ELOOP or of_kind:  # opening it says what is wrong
            return False
        raise
