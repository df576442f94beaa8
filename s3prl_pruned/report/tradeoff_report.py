"""The trade-off document (`tradeoff.py`) as files: table, pictures and one page to send. Drawn from the JSON alone."""

from pathlib import Path
from typing import Any

from s3prl_pruned.report.files import ReportFiles, png
from s3prl_pruned.report.tradeoff_columns import (
    INERT_SHARE,
    MINI_SCORE_LEAVES_OUT,
    NO_MINI_SCORE,
    NO_RESULT,
    NOT_TIMED,
    NOTHING_TIMED,
    RATE,
    TradeoffColumn,
    columns,
    full_name,
    is_on_front,
    models_of,
    qualities,
)
from s3prl_pruned.report.tradeoff_page import page
from s3prl_pruned.report.tradeoff_picture import quality_against_costs
from s3prl_pruned.superb.catalogue import TASKS
from s3prl_pruned.tables import Bold, Column, Table

FILES = ReportFiles(
    name="tradeoff",
    command="tools/tradeoff.py",
    keys=("seconds_of_audio", "notes"),
    rows="entries",
    row_key="qualities",
)
_CSV_COLUMNS = (
    "name method rate inert_share parameters nonzero_parameters macs seconds speed noisy steps teacher note sha256 "
    "path seconds_spread speed_spread command"
).split()

check_document, refuse_existing = FILES.check_document, FILES.refuse_existing


def write(data: dict, folder: Path) -> list[Path]:
    """Write `tradeoff.json`, `.csv`, `.md`, `.html` and a picture per quality into a folder.

    Raises:
        UserError: a report exists there already, or cannot be written.
    """
    csv = as_csv(data)
    whole = page(data, csv, explanation(data), left_out(data["notes"]))
    pictures = {f"_{_file_name(name)}": png(quality_against_costs(data, name)) for name in qualities(data)}
    return FILES.write(data, folder, texts={"csv": csv, "md": markdown(data), "html": whole}, pictures=pictures)


def as_csv(data: dict) -> str:
    """All numbers, a line per model."""
    names = qualities(data)
    kinds = {"value": "", "protocol": " protocol", "runs": " runs", "spread": " spread"}
    rows = []
    for model in models_of(data):
        figures = {
            name + suffix: model["qualities"].get(name, {}).get(kind)
            for name in names
            for kind, suffix in kinds.items()
        }
        rows.append({**model, **figures, "pareto": " ".join(place.replace(" ", "_") for place in model["pareto"])})
    figures_of = [name + suffix for suffix in kinds.values() for name in names]
    return Table([*_CSV_COLUMNS, *figures_of, "pareto"], rows).csv()


def markdown(data: dict) -> str:
    """The table; on the Pareto front of a quality and some cost its figure is bold."""
    missing = left_out(data["notes"])
    return "\n".join([table(data).markdown(), "", *explanation(data), *([missing] if missing else []), ""])


def table(data: dict) -> Table:
    """A row per model, the dense ones first; qualities beside the name."""
    shown = columns(data)
    split = sum(column.is_quality for column in shown)
    heads: list[Column | str] = [Column(column.key, _header(column)) for column in shown]
    heads[split:split] = ["method"]
    rows = []
    for model in models_of(data):
        cells = {column.key: _cell(column, model) for column in shown}
        rows.append({**cells, "model": full_name(model), "method": model["method"]})
    return Table(["model", *heads], rows)


def _header(column: TradeoffColumn) -> str:
    return column.title if column in (RATE, INERT_SHARE) else column.header


def _cell(column: TradeoffColumn, model: dict[str, Any]) -> str | Bold | None:
    text = column.text(model)
    if text is None:
        return None
    if column.is_quality:
        return Bold(text) if is_on_front(model, column.key) else text
    if column in (RATE, INERT_SHARE):
        return f"{text} %"
    return text + " noisy" * (column.key == "speed" and model["noisy"])


def explanation(data: dict) -> list[str]:
    """What the table's words mean, and what must be said beside the numbers."""
    protocols = sorted({quality["protocol"] for model in data["entries"] for quality in model["qualities"].values()})
    front = (
        "bold: no other model is better in it without costing more of something"
        if qualities(data)
        else "no quality was measured"
    )
    lines = [
        f"Rate: {RATE.about}. Inert: {INERT_SHARE.about}. MACs and time: "
        f"{data['seconds_of_audio']:g} s of audio. Speed: against the dense encoder. {front[0].upper()}{front[1:]}.",
    ]
    if spreads := _spreads(data):
        lines.append(f"After ±: {' and '.join(spreads)}.")
    if ranges := _ranges(data):
        lines.append(
            f"Parameters not zero, in millions, by method: {'; '.join(ranges)}. Compare methods at equal size only "
            "where these overlap."
        )
    if any(model["nonzero_parameters"] != model["parameters"] for model in data["entries"]):
        lines.append(
            "Weights that are zero where they stand save no time: nothing here leaves them out, and none is claimed."
        )
    if protocols and protocols != ["official"]:
        lines.append(
            f"Protocols: {', '.join(protocols)}; what is not official compares these rows with one another and with "
            "nothing else."
        )
    notes = [note for note in data["notes"] if not note.startswith(_MISSING)]
    return lines + [note[0].upper() + note[1:] + ("" if note.endswith(".") else ".") for note in notes]


_MISSING = (MINI_SCORE_LEAVES_OUT, NO_MINI_SCORE, NO_RESULT, NOT_TIMED, NOTHING_TIMED)


def left_out(notes: list[str]) -> str | None:
    """What the report lacks and why, in one line; None where it lacks nothing.

    Args:
        notes: of the document. Of the mini-score there is one for each task that does not count.
    """
    reasons: dict[str, list[str]] = {}
    others = []
    for note in (note for note in notes if note.startswith(_MISSING)):
        if note.startswith(MINI_SCORE_LEAVES_OUT):
            task, _, reason = note.removeprefix(MINI_SCORE_LEAVES_OUT).partition(": ")
            reasons.setdefault(reason, []).append(TASKS[task].label if task in TASKS else task)
        else:
            others.append(note)
    tasks = [f"{', '.join(names)} ({reason})" for reason, names in reasons.items()]
    parts = [*([f"of the mini-score {', '.join(tasks)}"] if tasks else []), *others]
    return f"Left out: {'; '.join(parts).rstrip('.')}." if parts else None


def _spreads(data: dict) -> list[str]:
    """The value after ±, if there is one."""
    models, timing = models_of(data), data.get("timing") or {}
    repeats = f" of {timing['repeats']} repeats" if "repeats" in timing else ""
    found = []
    if any(model.get("seconds_spread") or model.get("speed_spread") for model in models):
        found.append(f"of time and speed half the interquartile range{repeats}")
    if any(quality.get("spread") for model in models for quality in model["qualities"].values()):
        found.append("of qualities the standard deviation over runs")
    return found


def _ranges(data: dict) -> list[str]:
    """The sizes at which each method stands, where there are several methods."""
    sizes: dict[str, list[float]] = {}
    for model in data["entries"]:
        if model["method"] != "dense":
            sizes.setdefault(model["method"], []).append(model["nonzero_parameters"] / 1e6)
    spans = {method: (min(own), max(own)) for method, own in sizes.items()}
    return (
        [f"{method} {low:.2f}" + f" to {high:.2f}" * (high > low) for method, (low, high) in spans.items()]
        if len(spans) > 1
        else []
    )


def _file_name(quality: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in quality).strip("_")
