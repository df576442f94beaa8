"""Progress bars: on a terminal as usual; in a log file a line now and then."""

import sys
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60.0
"""In a file, between two lines of one bar."""


class _Lines:
    """A file that gets each state of a bar as a line of its own, without what moves a terminal's cursor."""

    def __init__(self, file: TextIO):
        self._file = file

    def write(self, text: str) -> None:
        """What tqdm writes: a state of the bar after a carriage return, or a line's end of its own."""
        if text := text.replace("\r", "").strip():
            self._file.write(text + "\n")

    def flush(self) -> None:
        self._file.flush()


def progress(*args: Any, file: TextIO | None = None, **options: Any) -> tqdm:
    """`tqdm`, which where `file` is no terminal writes a line a minute at most, and one at the end.

    Args:
        args: `tqdm`'s.
        file: where to; None is the standard error.
        options: `tqdm`'s.
    """
    file = sys.stderr if file is None else file
    if file.isatty():
        return tqdm(*args, file=file, **options)
    rare = {"mininterval": SECONDS_BETWEEN_LINES, "maxinterval": SECONDS_BETWEEN_LINES}
    return tqdm(*args, file=_Lines(file), **{**options, **rare})
