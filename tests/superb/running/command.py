"""The command line of a task, as typed, and the files of its run."""

import contextlib
import io
from pathlib import Path

from s3prl_pruned.superb.running import run

FOLDER = Path("results/fbank/asr")
STATES = ("states-2.ckpt", "states-4.ckpt")


def command(*options):
    """Run the command line as typed; returns what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        run.main(["-d", "asr", "--corpus", "corpus", "--device", "cpu", *options])
    return printed.getvalue()


def half_trained():
    """The run after two of its four steps."""
    for name in ("result.json", STATES[1]):
        (FOLDER / name).unlink()
