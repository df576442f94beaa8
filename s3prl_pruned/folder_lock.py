"""One process at a time in a folder: a lock that is released by a crash, on local and network file systems.

The operating system's lock (`fcntl.lockf`; NFS has it too) ends with its process, so that there is nothing to clean up.
Some file systems have no locks, or only within one machine (Lustre with `localflock`, NFS with `nolock`). Therefore the
lock file also names the process that holds it, with a counter that it increases every few seconds. A process that finds
the record of another machine watches it, and takes over the folder if the counter does not change. No clocks are
compared.
"""

import errno
import fcntl
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.config import UserError

logger = logging.getLogger(__name__)

NAME = ".lock"
"""The file that locks a whole folder. It is removed when the lock is released."""
BEAT_SECONDS = 5.0
"""How often the holder increases its counter."""
PATIENCE_SECONDS = 20.0
"""How long a counter must not change before its holder counts as dead."""
WAIT_SECONDS = 2.0
"""How often `locked_in_turn` tries."""
_RIVALS_SECONDS = 1.0  # without system locks: two processes that start together have both written after this time
_held: set[Path] = set()  # by this process, to which the system would give the lock again
_LENGTH = 200  # of the record in bytes, so that one call overwrites it


class FolderInUse(UserError):
    """Another process holds the lock."""


def is_unused(folder: Path) -> bool:
    """Whether the folder does not exist, or contains only hidden files: locks, or what a killed process left."""
    return not folder.exists() or all(path.name.startswith(".") for path in folder.iterdir())


@contextmanager
def locked(folder: str | Path, name: str = NAME) -> Iterator[None]:
    """Hold a folder's lock.

    Args:
        folder: created if needed; a created folder is removed if it is empty at the end.
        name: of the lock file, for a folder with several locks.

    Raises:
        FolderInUse: another process holds it.
        UserError: the folder cannot be written.
    """
    path = Path(folder).resolve() / name
    if path in _held:
        raise _refusal(path, _record(0))
    is_new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _Lock.open(path)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written ({error}). Choose another folder with -p.") from error
    try:
        lock.take()
        _held.add(path)
        ended = threading.Event()
        heart = threading.Thread(target=lock.beat, args=(ended,), daemon=True)
        heart.start()
        try:
            yield
        finally:
            ended.set()
            heart.join()
            _held.discard(path)
            lock.remove()
    finally:
        os.close(lock.file)
        if is_new:
            with suppress(OSError):  # it is not empty
                path.parent.rmdir()


@contextmanager
def locked_in_turn(folder: str | Path, name: str) -> Iterator[None]:
    """Hold a lock like `locked`, but wait with a warning until the other process has ended.

    Raises:
        UserError: the folder cannot be written.
    """
    with ExitStack() as held:
        waits = False
        while True:
            try:
                held.enter_context(locked(folder, name))
                break
            except FolderInUse as refusal:
                if not waits:
                    logger.warning("%s Waiting for it.", refusal)
                waits = True
            time.sleep(WAIT_SECONDS)
        yield


@dataclass
class _Lock:
    path: Path
    file: int
    """Descriptor. Closing any descriptor of a file releases the process's system lock, so there is only this one."""
    by_system: bool
    """Whether the file system has locks."""

    @classmethod
    def open(cls, path: Path) -> "_Lock":
        for _ in range(5):
            lock = cls(path, os.open(path, os.O_RDWR | os.O_CREAT, 0o666), by_system=True)
            try:
                fcntl.lockf(lock.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.by_system = False
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    holder = lock.read()
                    os.close(lock.file)
                    raise _refusal(path, holder) from None
            if lock.stands():
                break
            os.close(lock.file)  # its last holder has just removed the file
        return lock

    def take(self) -> None:
        """Become the holder, unless the record of another machine changes."""
        found = self.read()
        own = self.by_system and found.startswith(_machine())  # a living process would still hold the system lock
        if found and not own:
            logger.warning(
                "%s belongs to %s; checking for %.0f s whether it is still running.",
                self.path, _named(found), PATIENCE_SECONDS,
            )  # fmt: skip
            self._refuse_change(found, PATIENCE_SECONDS)
        self.write(0)
        if not self.by_system:
            self._refuse_change(self.read(), _RIVALS_SECONDS)

    def _refuse_change(self, found: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(0.5, seconds))
            if (now := self.read()) != found and now:
                raise _refusal(self.path, now)

    def beat(self, ended: threading.Event) -> None:
        """Increase the counter until the end."""
        count = 0
        while not ended.wait(BEAT_SECONDS):
            count += 1
            with suppress(OSError):  # a disk that is unreachable for a while does not stop the run
                self.write(count)

    def read(self) -> str:
        return os.pread(self.file, _LENGTH, 0).decode("ascii", "replace").strip()

    def write(self, count: int) -> None:
        record = _record(count).encode("ascii", "replace")
        os.pwrite(self.file, record[:_LENGTH].ljust(_LENGTH), 0)

    def stands(self) -> bool:
        """Whether the path still belongs to this file."""
        with suppress(OSError):
            return os.path.samestat(os.stat(self.path), os.fstat(self.file))
        return False

    def remove(self) -> None:
        with suppress(OSError):  # some file systems keep the name of an open file
            os.ftruncate(self.file, 0)
            if self.stands():
                self.path.unlink()


def _record(count: int) -> str:
    return f"{_machine()} {socket.gethostname()} {os.getpid()} {count}"


def _refusal(path: Path, record: str) -> FolderInUse:
    return FolderInUse(
        f"{path.parent}: another process is using this folder ({_named(record)}). Wait until it has ended, or choose "
        "another folder with -n. If its machine has crashed, try again in two minutes."
    )


def _machine() -> str:
    """An identifier of this machine until it restarts. Containers on one machine share it, and its locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return socket.gethostname()


def _named(record: str) -> str:
    _, host, pid, *_ = [*record.split(), "?", "?", "?", "?"]
    return f"process {pid} on {host}"
