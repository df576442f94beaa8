"""A report's files: its JSON document, and the tables and figures made from that alone."""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from s3prl_pruned.checkpoint import write_text
from s3prl_pruned.config import UserError

_SUFFIXES = ("json", "csv", "md", "html", "png")


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """The files of one kind of report, in a folder chosen by the user."""

    name: str
    """The files are named `<name>.json`, `<name>.csv`, ..."""
    command: str
    """The command that makes the files."""
    keys: tuple[str, ...]
    """Required keys of the document."""
    rows: str
    """The key of its list of results, which must not be empty."""
    row_key: str
    """A required key of each result."""

    def check_document(self, data: dict[str, Any], where: str) -> dict[str, Any]:
        """Refuse data that is no document of this kind.

        Raises:
            UserError: if a key is missing.
        """
        missing = [key for key in (*self.keys, self.rows) if key not in data]
        with self.damage_named(where):
            if missing or not data[self.rows] or self.row_key not in data[self.rows][0]:
                raise UserError(
                    f"{where}: must be the JSON document of {self.command}, but lacks {missing or self.rows}."
                )
        return data

    @contextmanager
    def damage_named(self, where: str) -> Iterator[None]:
        """Turn errors from values of wrong types into one clear error, while a document is used.

        Args:
            where: the document's name in messages.

        Raises:
            UserError: in place of the errors that such values raise.
        """
        try:
            yield
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{where}: must be the JSON document of {self.command}, but is damaged ({error!r}). Copy it again."
            ) from error

    def refuse_existing(self, folder: Path) -> None:
        """Raise UserError if `write` would have to overwrite a file."""
        standing = [path for path in (folder / f"{self.name}.{suffix}" for suffix in _SUFFIXES) if path.exists()]
        if standing:
            raise UserError(
                f"{standing[0]}: exists already, and a report is never overwritten. Name another folder (--output)."
            )

    def write(
        self, data: dict[str, Any], folder: Path, *, texts: Mapping[str, str], pictures: Mapping[str, bytes]
    ) -> list[Path]:
        """Write a report.

        Args:
            data: the document, `<name>.json`.
            folder: created if missing.
            texts: text files by suffix, such as `md`.
            pictures: PNG files by the end of their name.

        Returns:
            The paths of the files.

        Raises:
            UserError: if a report already exists there, or cannot be written.
        """
        self.refuse_existing(folder)
        texts = {"json": json.dumps(data, indent=2, allow_nan=False) + "\n", **texts}
        paths = []
        for suffix, text in texts.items():
            paths.append(folder / f"{self.name}.{suffix}")
            write_text(paths[-1], text)
        for name, picture in pictures.items():
            paths.append(folder / f"{self.name}{name}.png")
            paths[-1].write_bytes(picture)
        return paths


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(file, dpi=130)
    return file.getvalue()
