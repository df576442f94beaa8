"""What all command lines share: one clear line for a user's error, and exit codes."""

import errno
import logging
import os
import sys
from collections.abc import Callable

from s3prl_pruned.config import UserError
from s3prl_pruned.own_commands import as_typed


class Interrupted(Exception):
    """A signal asked for a stop, and the work so far is saved.

    Args:
        message: what was stopped, and how to go on.
        exit_code: 130 after Ctrl-C; 75 (EX_TEMPFAIL) after SIGTERM, on which a scheduler can requeue.
    """

    def __init__(self, message: str, *, exit_code: int = 130):
        super().__init__(message)
        self.exit_code = exit_code


def command_line(main: Callable[[], object]) -> None:
    """Run `main` and exit with its code.

    0 is done, 2 an error that the user can mend, 130 or 75 interrupted after saving (`Interrupted`), 141 that who reads
    the output has stopped reading.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    _make_bars_rare()
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        print(as_typed(f"error: {error}"), file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        print(as_typed(f"interrupted: {stop}"), file=sys.stderr)
        sys.exit(stop.exit_code)
    except BrokenPipeError:  # such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        sys.exit(141)  # a shell's code for a process that SIGPIPE ended
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # Checkpoints and exports say it themselves (UserError); this is a log, a picture, a table.
        where = f"{error.filename}: " if error.filename else ""
        advice = "What was saved before is whole. Make room, then repeat the command, with -a to go on."
        print(f"error: {where}the disk is full ({error.strerror}). {advice}", file=sys.stderr)
        sys.exit(2)


def _make_bars_rare() -> None:
    """Where there is no terminal, let other libraries' bars (s3prl's runner) write once a minute, as `progress` does.

    tqdm reads these variables when it is first imported; processes that this one starts read them too.
    """
    if not sys.stderr.isatty():
        for name in ("TQDM_MININTERVAL", "TQDM_MAXINTERVAL"):
            os.environ.setdefault(name, "60")
