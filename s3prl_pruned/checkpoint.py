"""Training state on disk: written completely or not at all, and read without running any code.

A checkpoint is a dict of tensors and plain data (numbers, strings, lists, dicts) in ``torch.save``'s
format. Its name is ``states-{step}.ckpt``, as in s3prl.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import logging
import os
import re
import shutil
import time
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, cast

import torch

from s3prl_pruned.config import UserError

logger = logging.getLogger(__name__)

_NAME = re.compile(r"states-(\d+)\.ckpt")
_PLAIN = (str, bytes, bool, int, float, type(None))
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk, an exceeded quota, and a process's limit on file size."""
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM)
_BUSY = (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EEXIST, errno.ETXTBSY)


def checkpoint_path(folder: str | Path, step: int) -> Path:
    """Path of the checkpoint of optimiser step ``step`` in ``folder``."""
    return Path(folder) / f"states-{step}.ckpt"


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path`` atomically: ``path`` is always the old file or the new one.

    The state is written under a temporary name in the same folder, synced to disk, and renamed;
    neither a full disk nor ``kill -9`` leaves a partial checkpoint under a checkpoint's name.

    Args:
        path: the file; its folder is created if needed.
        state: tensors, ``None``, numbers, strings, bytes, and lists, tuples and dicts of these, so
            that ``load_checkpoint`` accepts it.

    Raises:
        UserError: if it cannot be written; an old file at ``path`` is unchanged.
        TypeError: if the state holds anything else.
    """
    path = Path(path)
    _check_plain(state, "state")
    try:
        write_torch(path, state)
    except OSError as error:
        raise UserError(
            f"{path}: the checkpoint could not be saved ({_first_line(error)}). {_space(path.parent)}"
            "Earlier checkpoints are intact. Free space or name another folder, then resume."
        ) from error


def write_torch(path: str | Path, state: object) -> None:
    """Write an object with `torch.save`, as safely as `save_checkpoint` does.

    Args:
        path: the file; its folder is created if needed.
        state: tensors, and any other objects that the file's reader allows.

    Raises:
        OSError: it cannot be written; an old file at ``path`` is unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save(state, file)
        _put_in_place(temporary, path)
    except OSError:
        _remove(temporary)
        raise
    except RuntimeError as error:  # a failed write: torch's zip writer raises its own, mostly over OSError
        _remove(temporary)
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        if "inline_container" not in str(error):
            raise
        raise OSError(errno.ENOSPC, _first_line(error)) from error


def size(state: dict[str, Any]) -> int:
    """Number of bytes that ``save_checkpoint`` would write."""
    counter = _Counter()
    torch.save(state, cast("IO[bytes]", counter))
    return counter.size


class _Counter(io.RawIOBase):
    """A file object that discards what is written and counts its bytes."""

    size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        length = memoryview(data).nbytes
        self.size += length
        return length


def load_checkpoint(path: str | Path, *, mapped: bool = False) -> dict[str, Any]:
    """Read a checkpoint onto the CPU: tensors and plain data only, so untrusted files are safe.

    Args:
        path: the file.
        mapped: memory-map the tensors instead of reading them; the file must not be overwritten while they exist.

    Raises:
        UserError: if the file is missing, truncated, not a checkpoint, not a dict, or holds objects of
            other classes (these are never constructed: no code of the file runs).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file. Give the path of an existing checkpoint.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged pickle can raise nearly anything
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign:
            raise UserError(
                f"{path}: holds an object of the class {foreign[1]}, and a checkpoint may hold tensors "
                "and plain data only. It was not loaded, since constructing such objects can run code. "
                "Save only its state dict."
            ) from error
        # torch's own message is left out: it advises switching the protection off.
        raise UserError(
            f"{path}: is truncated, or is no torch checkpoint ({path.stat().st_size} bytes). "
            "Take an earlier checkpoint, or copy the file again."
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: must hold a dict, but holds a {type(state).__name__}.")
    return state


def newest(folder: str | Path) -> Path | None:
    """The complete checkpoint of the highest step in ``folder``; ``None`` if there is none.

    A truncated checkpoint is skipped with a warning; the one before it is taken.
    """
    for path in _by_step(folder):
        if _is_whole(path):
            return path
        size = path.stat().st_size
        logger.warning("%s is truncated (%d bytes): going back to the one before.", path, size)
    return None


def point_latest(folder: str | Path) -> None:
    """Point the link ``latest`` to the newest complete checkpoint."""
    target = newest(folder)
    if target is not None:
        point(folder, "latest", target)


def point(folder: str | Path, name: str, target: Path) -> None:
    """Point a link to a checkpoint in its folder, atomically: the link is never missing or dangling.

    The link is for people. A file system without links (exFAT, SMB, cloud mounts) gets none, and one warning says so.
    """
    temporary, link = Path(folder) / f".{name}.tmp", Path(folder) / name
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.name)
        os.replace(temporary, link)
    except OSError as error:
        _remove(temporary)
        _remove(link)  # it would point to a file that is deleted next
        _warn_once(f"{folder}: the link `{name}` cannot be made ({error.strerror}); the run goes on without it.")


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning(text)


def write_text(path: str | Path, text: str) -> None:
    """Write a small text file atomically: ``path`` is always the old text or the new one. Creates its folder.

    Raises:
        UserError: if it cannot be written; an old file at ``path`` is unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        _put_in_place(temporary, path)
    except OSError as error:
        _remove(temporary)
        raise UserError(f"{path}: could not be written ({error.strerror}). {_space(path.parent)}Free space.") from error


def rotate(folder: str | Path, max_keep: int, *, best: int | None = None) -> None:
    """Delete all but the ``max_keep`` newest complete checkpoints of ``folder``, and partly written files.

    A truncated checkpoint that is newer than those is kept, and not counted.

    Args:
        folder: a run's folder.
        max_keep: how many checkpoints to keep.
        best: step of a checkpoint that is kept in addition.
    """
    if max_keep < 1:
        raise UserError(f"`max_keep` must be at least 1, but is {max_keep}.")
    kept = 0
    for path in _by_step(folder):
        if kept == max_keep:
            if best is None or path != checkpoint_path(folder, best):
                path.unlink()
        elif _is_whole(path):
            kept += 1
    for half in Path(folder).glob(".states-*.ckpt.tmp"):  # what kill -9 left behind
        half.unlink()


def _by_step(folder: str | Path) -> list[Path]:
    """The folder's checkpoints, highest step first."""
    found = ((path, _NAME.fullmatch(path.name)) for path in Path(folder).glob("states-*.ckpt"))
    steps = {path: int(name[1]) for path, name in found if name}
    return sorted(steps, key=steps.__getitem__, reverse=True)


def _is_whole(path: Path) -> bool:
    # A zip archive's directory is at its end, so this reads no tensors.
    return zipfile.is_zipfile(path)


def _check_plain(value: Any, name: str) -> None:
    """Refuse to save what ``load_checkpoint`` would refuse, such as a NumPy number."""
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            if type(key) not in (str, int):
                raise TypeError(f"{name} has the key {key!r}; keys must be strings or integers.")
            _check_plain(item, f"{name}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _check_plain(item, f"{name}[{index}]")
    elif type(value) not in _PLAIN and not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; a checkpoint holds tensors and plain data.")


def sync(path: str | Path) -> None:
    """Sync a file or folder to disk, so that it survives a power cut; does nothing on a disk that cannot sync.

    Raises:
        OSError: the disk is full or broken, which may show only now.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _put_in_place(temporary: Path, path: Path) -> None:
    """Rename a finished file. A network disk may refuse this for a moment, while a reader has the old file open."""
    sync(temporary)
    for seconds in (0.1, 0.3, 1.0, None):
        try:
            os.replace(temporary, path)
            break
        except OSError as error:
            if error.errno not in _BUSY or seconds is None:
                raise
            time.sleep(seconds)
    sync(path.parent)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _space(folder: Path) -> str:
    try:
        return f"Free there: {shutil.disk_usage(folder).free / 2**20:.0f} MiB. "
    except OSError:
        return ""


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
