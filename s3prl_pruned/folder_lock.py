"""One process at a time in a folder: a lock that a crash releases, on local disks and on network disks.

The operating system's own lock (`fcntl.lockf`; NFS has it too) ends with its process, so that nothing is left to clear
away. Some disks have none, or know it within one machine only (Lustre with `localflock`, NFS with `nolock`). Therefore
the lock's file also says who is at work, with a count that rises every few seconds: whoever finds the record of another
machine watches it, and takes the folder over once the count stands still. No clocks are compared.
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
"""The file that locks a whole folder. It goes when its holder ends."""
BEAT_SECONDS = 5.0
"""How often a holder counts."""
PATIENCE_SECONDS = 20.0
"""How long a count must stand still before its holder is taken for dead."""
WAIT_SECONDS = 2.0
"""How often `locked_in_turn` tries."""
_RIVALS_SECONDS = 1.0  # on a disk without locks: within these, two that start together have both written
_held: set[Path] = set()  # by this process, whom the system would let in again
_LENGTH = 200  # of the record in bytes: one call overwrites it


class FolderInUse(UserError):
    """Another process holds the lock."""


def is_unused(folder: Path) -> bool:
    """Whether there is no folder, or nothing in it but hidden files: locks, and what a kill left of a first file."""
    return not folder.exists() or all(path.name.startswith(".") for path in folder.iterdir())


@contextmanager
def locked(folder: str | Path, name: str = NAME) -> Iterator[None]:
    """Hold a folder's lock.

    Args:
        folder: made if needed; one that was made and holds nothing in the end goes again.
        name: of the lock's file, for a folder that has several.

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
        raise UserError(f"{path.parent}: cannot be written ({error}). Name another folder by -p.") from error
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
            with suppress(OSError):  # it holds something
                path.parent.rmdir()


@contextmanager
def locked_in_turn(folder: str | Path, name: str) -> Iterator[None]:
    """Hold a lock as by `locked`, but wait until the other process has ended, and say so.

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
    """Descriptor. A process that closes any descriptor of a file gives its system lock back: there is this one only."""
    by_system: bool
    """Whether this disk has locks."""

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
            os.close(lock.file)  # its last holder has just removed it
        return lock

    def take(self) -> None:
        """Become the holder, unless another machine's record is alive."""
        found = self.read()
        own = self.by_system and found.startswith(_machine())  # its process would still have the system's lock
        if found and not own:
            logger.warning(
                "%s was left by %s; looking for %.0f s whether it is still at work.",
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
        """Count until the end."""
        count = 0
        while not ended.wait(BEAT_SECONDS):
            count += 1
            with suppress(OSError):  # a disk that is away for a while stops no run
                self.write(count)

    def read(self) -> str:
        return os.pread(self.file, _LENGTH, 0).decode("ascii", "replace").strip()

    def write(self, count: int) -> None:
        record = _record(count).encode("ascii", "replace")
        os.pwrite(self.file, record[:_LENGTH].ljust(_LENGTH), 0)

    def stands(self) -> bool:
        """Whether the path still leads to this file."""
        with suppress(OSError):
            return os.path.samestat(os.stat(self.path), os.fstat(self.file))
        return False

    def remove(self) -> None:
        with suppress(OSError):  # some disks keep the name of an open file
            os.ftruncate(self.file, 0)
            if self.stands():
                self.path.unlink()


def _record(count: int) -> str:
    return f"{_machine()} {socket.gethostname()} {os.getpid()} {count}"


def _refusal(path: Path, record: str) -> FolderInUse:
    return FolderInUse(
        f"{path.parent}: another process is at work in this folder ({_named(record)}). Wait until it has ended, or "
        "give another name by -n. If its machine has crashed, try again in two minutes."
    )


def _machine() -> str:
    """What tells this machine from others while it runs. Containers on one machine share this, and its locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return socket.gethostname()


def _named(record: str) -> str:
    _, host, pid, *_ = [*record.split(), "?", "?", "?", "?"]
    return f"process {pid} on {host}"
