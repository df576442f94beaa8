"""What all command lines share: one clear line for a user's error, and exit codes."""

import errno
import logging
import os
import sys
from collections.abc import Callable

from s3prl_pruned.config import UserError


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
    """Run `main` and exit: 0 done, 2 an error that the user can mend, 130 or 75 interrupted after saving (`Interrupted`), 141
    when who reads the output stops reading."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        print(f"interrupted: {stop}", file=sys.stderr)
        sys.exit(stop.exit_code)
    except BrokenPipeError:  # such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        sys.exit(141)  # a shell's code for a process that SIGPIPE ended
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # Checkpoints and exports say it themselves (UserError); this is a log, a picture, a table.
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}the disk is full ({error.strerror}). What was saved before is whole. Make room, then repeat "
              "the command, with -a to go on.", file=sys.stderr)  # fmt: skip
        sys.exit(2)
