"""What all commands share: one line for an error of the user, and the exit codes."""

import errno
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from s3prl_pruned.config import UserError
from s3prl_pruned.own_commands import as_typed

STOP_SIGNALS = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGHUP: 75, signal.SIGINT: 130}
"""Signals that ask for a stop, and the exit code after each.

75 (EX_TEMPFAIL) follows the signals that schedulers send before they end a job (Slurm's `--signal`, submitit), and the
end of a terminal; a scheduler can requeue on it. 130 follows Ctrl-C.
"""
_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)


def stop_signals() -> list[signal.Signals]:
    """Those of `STOP_SIGNALS` that stop this process; under `nohup` SIGHUP does not."""
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signum for signum in STOP_SIGNALS if not (nohup and signum == signal.SIGHUP)]


class Stopped(KeyboardInterrupt):
    """A stop signal arrived; a `KeyboardInterrupt`, so that no library handles it as an error.

    Args:
        signum: the signal.
    """

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = STOP_SIGNALS[signal.Signals(signum)]


class Interrupted(Exception):
    """A signal asked for a stop, and the work so far is saved.

    Args:
        message: what was stopped, and how to resume it.
        exit_code: of `STOP_SIGNALS`.
    """

    def __init__(self, message: str, *, exit_code: int = 130):
        super().__init__(message)
        self.exit_code = exit_code


def command_line(main: Callable[[], object]) -> None:
    """Run `main` and exit with its code.

    0: done. 2: an error that the user can fix. 130 or 75: interrupted (`STOP_SIGNALS`). 141: the reader of the output
    has closed it.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    _make_bars_rare()
    _show_any_name()
    try:
        with _stopped_by_signals():
            main()
        sys.stdout.flush()
    except UserError as error:
        print(as_typed(f"error: {error}"), file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        print(as_typed(f"interrupted: {stop}"), file=sys.stderr)
        sys.exit(stop.exit_code)
    except KeyboardInterrupt as stop:
        name = str(stop) or "Ctrl-C"
        print(f"interrupted: by {name}. Run the same command to start again, or add -a to resume.", file=sys.stderr)
        sys.exit(stop.exit_code if isinstance(stop, Stopped) else 130)
    except BrokenPipeError:  # such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        sys.exit(141)  # a shell's code for a process that SIGPIPE ended
    except OSError as error:
        # Checkpoints and exports raise UserError themselves; this is a log, a figure, a table.
        where = f"{error.filename}: " if error.filename else ""
        if where and error.errno in _PLACE:
            print(f"error: {where}{error.strerror}. Check the permissions, or choose another path.", file=sys.stderr)
            sys.exit(2)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        advice = "Files saved earlier are intact. Free some space, then run the command again with -a to resume."
        print(f"error: {where}the disk is full ({error.strerror}). {advice}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Make stop signals raise `Stopped`, in a single process; `torchrun` stops its processes itself."""
    before = {}
    if threading.current_thread() is threading.main_thread() and os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        before = {n: signal.signal(n, _raise) for n in stop_signals() if signal.getsignal(n) is signal.SIG_DFL}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _raise(signum: int, frame: FrameType | None) -> None:
    raise Stopped(signum)


def _show_any_name() -> None:
    """Print characters that the output's encoding lacks (`LC_ALL=C` has ASCII only) as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests replace it
            stream.reconfigure(errors="backslashreplace")


def _make_bars_rare() -> None:
    """Without a terminal, let other libraries' progress bars (s3prl's runner) write once a minute, as `progress` does.

    tqdm reads these variables when it is first imported, also in child processes.
    """
    if not sys.stderr.isatty():
        for name in ("TQDM_MININTERVAL", "TQDM_MAXINTERVAL"):
            os.environ.setdefault(name, "60")
