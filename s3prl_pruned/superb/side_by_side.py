"""Upstreams side by side, one line each: as aligned text, or in Markdown."""

from __future__ import annotations

from pathlib import Path

from s3prl_pruned.superb.collect import UNKNOWN_PROTOCOL
from s3prl_pruned.superb.score import SCALES
from s3prl_pruned.superb.table import Row, unfinished_lines
from s3prl_pruned.superb.tasks import TASKS

LEGEND = (
    "Percent, QbE's MTWV x 100. Lower is better for PR (PER), ASR (WER), SV (EER), SD (DER) and SF's CER. A score needs all ten "
    "tasks. (p) published, (g) given by hand; * not the official settings; ? read from s3prl's own run, settings unknown."
)


def as_wide_text(rows: list[Row], unfinished: list[Path]) -> str:
    """Aligned columns."""
    cells = [_header(), *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = []
    for name, *numbers in cells:
        aligned = [name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(numbers, widths[1:]))]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join([*lines, "", LEGEND, *_footnotes(rows), *unfinished_lines(unfinished)])


def as_markdown(rows: list[Row], unfinished: list[Path]) -> str:
    """A Markdown table, and a list of what must be said of it."""
    header, *body = ([_escaped(cell) for cell in line] for line in (_header(), *(_cells(row) for row in rows)))
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    notes = [f"- {_escaped(note)}" for note in (*_footnotes(rows), *unfinished_lines(unfinished))]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", _escaped(LEGEND), *(["", *notes] if notes else [])])


def _header() -> list[str]:
    tasks = ["SF F1/CER" if task.name == "sf" else "QbE" if task.name == "qbe" else task.name.upper() for task in TASKS.values()]
    return ["model", "params M", *tasks, *(f"{scale} scale" for scale in SCALES)]


def _cells(row: Row) -> list[str]:
    mark = {"published": " (p)", "given": " (g)"}.get(row.kind, "")
    scores = [row.scores[scale].total for scale in SCALES]
    return [
        row.name + mark,
        "-" if row.params_millions is None else f"{row.params_millions:.2f}",
        *(_metrics(row, task) for task in TASKS),
        *("-" if score is None else f"{score:.1f}" + "".join(sorted(set(_marks(row).values()))) for score in scores),
    ]


def _marks(row: Row) -> dict[str, str]:
    """By task, what marks its number; a score carries the marks of all."""
    marks = {UNKNOWN_PROTOCOL: "?", "official": "", row.kind: ""}
    return {task: marks.get(result.protocol, "*") for task, result in row.results.items()}


def _metrics(row: Row, task: str) -> str:
    if task not in row.results:
        return "-"
    given = row.results[task].values()
    numbers = [f"{given[metric.name].percent:.2f}" if metric.name in given else "-" for metric in TASKS[task].metrics]
    return "/".join(numbers) + _marks(row)[task]


def _footnotes(rows: list[Row]) -> list[str]:
    """Every note once, with the rows that it is said of."""
    said: dict[str, list[str]] = {}
    for row in rows:
        missing = list(dict.fromkeys(task for scale in SCALES for task in row.scores[scale].missing))
        for note in [*row.notes, *([f"no score, missing {' '.join(missing)}"] if missing else [])]:
            said.setdefault(note, []).append(row.name)
    return [
        f"{'every row' if len(names) == len(rows) > 1 else ', '.join(names)}: {note}" for note, names in said.items()
    ]


def _escaped(text: str) -> str:
    """Marks of ours and names of others mean nothing to Markdown."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*")
