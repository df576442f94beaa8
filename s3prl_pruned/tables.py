"""The one table writer: the same columns and rows as aligned text, Markdown, CSV and JSON data.

    table = Table([Column("name", "model"), Column("macs", "MACs", show=giga, align="right")], rows)
    print(table.text())

Text and Markdown format cells as their column says; CSV and JSON hold the values themselves. Units belong in the
header or `show`, and for CSV in the key.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Column:
    """One column."""

    key: str
    """Its name in CSV and JSON, and in rows that are mappings."""
    header: str | None = None
    """Header in text and Markdown; None for the key."""
    align: Literal["left", "right"] = "left"
    show: str | Callable[[Any], str] = "{}"
    """A format such as `{:.1f} %`, or a function of the value that gives the text."""
    absent: str = "-"
    """The text where a row has no value."""

    @property
    def title(self) -> str:
        """The header's text."""
        return self.key if self.header is None else self.header

    def cell(self, value: object) -> str:
        """The text of a value."""
        value = plain(value)
        if value is None:
            return self.absent
        return self.show.format(value) if isinstance(self.show, str) else self.show(value)


@dataclass(frozen=True)
class Bold:
    """A value that Markdown sets in bold."""

    value: object


def plain(value: object) -> object:
    """A cell's value, whether it is bold or not."""
    return value.value if isinstance(value, Bold) else value


class Table:
    """Columns and rows.

    Args:
        columns: a plain string is a column of that key, aligned to the left.
        rows: mappings with the columns' keys, or sequences in the columns' order. None and missing keys are no value.
    """

    def __init__(self, columns: Sequence[Column | str], rows: Sequence[Mapping[str, Any] | Sequence[Any]]):
        self.columns = [Column(column) if isinstance(column, str) else column for column in columns]
        keys = [column.key for column in self.columns]
        self.rows: list[list[Any]] = [
            [row.get(key) for key in keys] if isinstance(row, Mapping) else list(row) for row in rows
        ]
        assert all(len(row) == len(keys) for row in self.rows)

    @property
    def header(self) -> list[str]:
        """The columns' titles."""
        return [column.title for column in self.columns]

    def cells(self) -> list[list[str]]:
        """The text of every cell, without the header."""
        return [[column.cell(value) for column, value in zip(self.columns, row, strict=True)] for row in self.rows]

    def text(self) -> str:
        """For a terminal: columns as wide as their widest cell, two spaces between them."""
        lines = self._aligned([self.header, *self.cells()])
        return "\n".join("  ".join(line).rstrip() for line in lines)

    def markdown(self, *, aligned: bool = False) -> str:
        """A Markdown table.

        Args:
            aligned: pad cells with spaces, so that the table is readable as plain text too.
        """
        lines = [[escape_markdown(title) for title in self.header]]
        for cells, row in zip(self.cells(), self.rows, strict=True):
            texts = [escape_markdown(cell) for cell in cells]
            lines.append([f"**{text}**" if isinstance(v, Bold) else text for text, v in zip(texts, row, strict=True)])
        lines = self._aligned(lines) if aligned else lines
        rule = []
        for column, title in zip(self.columns, lines[0], strict=True):
            end = ":" if column.align == "right" else ""
            rule.append("-" * max(3, len(title) * aligned - len(end)) + end)
        return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])

    def csv(self) -> str:
        """A line of keys, then a line of values for each row; a missing value is empty."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column.key for column in self.columns])
        writer.writerows([plain(value) for value in row] for row in self.rows)
        return file.getvalue()

    def data(self) -> list[dict[str, Any]]:
        """JSON data: a mapping for each row."""
        keys = [column.key for column in self.columns]
        return [dict(zip(keys, map(plain, row), strict=True)) for row in self.rows]

    def _aligned(self, lines: list[list[str]]) -> list[list[str]]:
        """The cells of all lines, padded to the width of their column."""
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        pads = [str.rjust if column.align == "right" else str.ljust for column in self.columns]
        return [[pad(cell, width) for pad, cell, width in zip(pads, line, widths, strict=True)] for line in lines]


def escape_markdown(text: str) -> str:
    """Escape `|`, `*` and backslashes, so that names that hold them are shown as they are."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*")
