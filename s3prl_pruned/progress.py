"""Progress bars: as usual on a terminal, one line per minute in a log file."""

import sys
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60.0
"""Between two lines of one bar in a file."""


class _Lines:
    """A file that gets each state of a bar as a line, without the characters that move a cursor."""

    def __init__(self, file: TextIO):
        self._file = file

    def write(self, text: str) -> None:
        """Write a state of the bar, which tqdm starts with a carriage return, as a line."""
        if text := text.replace("\r", "").strip():
            self._file.write(text + "\n")

    def flush(self) -> None:
        self._file.flush()


def progress(*args: Any, file: TextIO | None = None, **options: Any) -> tqdm:
    """`tqdm`; if `file` is not a terminal, it writes at most one line per minute, and one at the end.

    Args:
        args: `tqdm`'s.
        file: to write to; None is the standard error.
        options: `tqdm`'s.
    """
    file = sys.stderr if file is None else file
    if file.isatty():
        return tqdm(*args, file=file, **options)
    rare = {"mininterval": SECONDS_BETWEEN_LINES, "maxinterval": SECONDS_BETWEEN_LINES}
    return tqdm(*args, file=_Lines(file), **{**options, **rare})
