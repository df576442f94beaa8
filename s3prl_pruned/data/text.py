"""Read lists and transcripts as text, whichever editor or system wrote them."""

from __future__ import annotations

import codecs
import gzip
import os
import re
import zlib
from pathlib import Path

from s3prl_pruned.config import UserError

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins with UTF-16's mark
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path) -> str:
    """Read a text file: UTF-8, or as its byte order mark says; unpacked with gzip if its name ends in ``.gz``.

    Raises:
        UserError: it cannot be read or unpacked, or is in another encoding.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}). Change its permissions, or copy it again.") from error
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: must be text in UTF-8 (or UTF-16 with its mark), but line {line} is not ({error.reason}: byte "
            f"0x{data[error.start]:02x}). Save it as UTF-8, such as: iconv -f latin1 -t utf-8."
        ) from error
    if "\0" in text:
        raise UserError(
            f"{path}: must be text in UTF-8, but holds zero bytes, as UTF-16 without its mark does. Save it as UTF-8."
        )
    return text


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, each with its number from 1.

    Lines may end as on Unix, Windows or old Macs. (``str.splitlines`` would also cut at characters that a JSON
    text or a transcript may hold.)

    Raises:
        UserError: as ``read_text``.
    """
    lines = re.split(r"\r\n?|\n", read_text(path))
    return [(number, line) for number, line in enumerate(lines, start=1) if line and not line.isspace()]


def read_head(path: Path, size: int = 65_536) -> str:
    """The first ``size`` bytes of any file as text, to see what kind of list it is.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(size)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Change its permissions or move it.") from error
    return data.decode(_encoding(data), errors="replace")


def listed_path(name: str, root: Path) -> str:
    """A path from a list, relative to ``root``, in the notation of this system.

    Backslashes, which separate folders on Windows, become slashes unless they are part of an existing file's name.
    """
    return name.replace("\\", "/") if "\\" in name and not os.path.lexists(root / name) else name


def _encoding(data: bytes) -> str:
    return next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
