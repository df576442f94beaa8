"""s3prl's `len_for_bucket` CSVs: columns `file_path` and `length` in samples at 16 kHz; others are ignored."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from s3prl_pruned.config import UserError
from s3prl_pruned.data.manifest import Utterance
from s3prl_pruned.data.text import listed_path, read_head, read_text

_COLUMNS = {"file_path", "length"}
_DELIMITERS = ",;\t|"
"""The comma is standard; programs write the others where it is the decimal separator, or for "Unicode text"."""


def s3prl_tables(folder: Path) -> dict[str, Path]:
    """The CSVs in a folder that have s3prl's columns, by name without `.csv`; other CSVs of a corpus are ignored."""
    try:
        paths = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() == ".csv" and not path.name.startswith(".") and path.is_file()
        )
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}). Change its permissions.") from error
    return {path.stem: path for path in paths if _delimiter(read_head(path)) is not None}


def read_table(path: Path, audio_root: str | Path | None) -> Iterator[Utterance]:
    """The utterances of one CSV.

    Args:
        path: the CSV.
        audio_root: folder that its relative paths start from; None for its own folder.

    Raises:
        UserError: it cannot be read, lacks a column, or a line is malformed.
    """
    root, text = Path(audio_root) if audio_root else path.parent, read_text(path)
    delimiter = _delimiter(text)
    reader = _rows(io.StringIO(text, newline=""), delimiter or ",")
    try:
        rows = (row for row in reader if any(cell.strip() for cell in row))
        columns = [name.strip() for name in next(rows, [])]
        if delimiter is None:
            lacking = sorted(_COLUMNS - set(columns))
            raise UserError(f"{path}: s3prl's CSVs have the columns file_path and length; this one lacks {lacking}.")
        for row in rows:
            cells = dict(zip(columns, row, strict=False))
            where = f"{path}: line {reader.line_num}"
            yield _utterance(cells.get("file_path", "").strip(), cells.get("length", ""), root=root, where=where)
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: is not a CSV ({error}). Check its quotes.") from error


def _rows(lines: Iterable[str], delimiter: str) -> Any:
    """A `csv.reader`."""
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True)


def _utterance(name: str, length: str, *, root: Path, where: str) -> Utterance:
    try:
        samples = float(length)  # pandas writes 16000.0 where a row of the column is empty
    except ValueError:
        samples = -1.0
    if not (samples.is_integer() and 0 <= samples < 2**53):
        raise UserError(f"{where}: `length` must be a whole number of samples, but is {length!r}.")
    if not name or Path(name).name in ("", ".."):
        raise UserError(f"{where}: `file_path` must name a file, but is {name!r}.")
    name = listed_path(name, root)
    return Utterance(Path(name).with_suffix("").as_posix(), root / name, int(samples))


def _delimiter(text: str) -> str | None:
    """The delimiter of the columns, from the first line that is not blank; None if s3prl's columns are missing."""
    header = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0]
    for delimiter in _DELIMITERS:
        names: list[str] = next(_rows([header], delimiter), [])
        if {name.strip() for name in names} >= _COLUMNS:
            return delimiter
    return None
