"""The trade-off document (`tradeoff.py`) as table, pictures and one page to send. Drawn from the JSON alone."""

import base64
import html
from collections.abc import Callable
from pathlib import Path

from s3prl_pruned.report.files import ReportFiles, png
from s3prl_pruned.report.tradeoff_picture import (
    COST_SCALES,
    COST_TITLES,
    is_shown,
    quality_against_costs,
    with_direction,
)
from s3prl_pruned.sparsity.quantities import INERT
from s3prl_pruned.tables import Bold, Column, Table

FILES = ReportFiles(
    name="tradeoff",
    command="tools/tradeoff.py",
    keys=("seconds_of_audio", "notes"),
    rows="entries",
    row_key="qualities",
)
_CSV_COLUMNS = (
    "name method rate inert_share parameters nonzero_parameters macs seconds speed noisy steps teacher note sha256 path"
).split()

_CSS = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1200px;padding:0 1em}"
    "table{border-collapse:collapse;font-size:13px}td,th{border:1px solid #ccc;padding:3px 8px;text-align:right;"
    "white-space:nowrap}td:first-child,td:nth-child(2),th{text-align:left}tr.dense{background:#f3f3f3}td.pareto{font-weight:bold;background:#e3f1fb}img{max-width:100%}"
    ".wide{overflow-x:auto}"
)


check_document, refuse_existing = FILES.check_document, FILES.refuse_existing


def write(data: dict, folder: Path) -> list[Path]:
    """Write `tradeoff.json`, `.csv`, `.md`, `.html` and a picture per quality into a folder.

    Raises:
        UserError: a report stands there already, or cannot be written.
    """
    pictures = {name: png(quality_against_costs(data, name)) for name in qualities(data)}
    return FILES.write(
        data,
        folder,
        texts={"csv": as_csv(data), "md": markdown(data), "html": page(data, pictures)},
        pictures={f"_{_file_name(name)}": picture for name, picture in pictures.items()},
    )


def qualities(data: dict) -> list[str]:
    """Names of all qualities, those that most models have first."""
    names = [name for model in data["entries"] for name in model["qualities"]]
    return sorted(dict.fromkeys(names), key=lambda name: -names.count(name))


def as_csv(data: dict) -> str:
    """All numbers, a line per model."""
    names = qualities(data)
    kinds = {"value": "", "protocol": " protocol", "runs": " runs"}
    rows = []
    for model in data["entries"]:
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
    return "\n".join([table(data).markdown(), "", *explanation(data), ""])


def table(data: dict) -> Table:
    """A row per model, the dense ones first."""
    names, inert = qualities(data), any(model.get("inert_share") is not None for model in data["entries"])
    columns = [
        Column("model"),
        Column("method"),
        Column("rate", show=lambda rate: f"{100 * rate:.1f} %"),
        *([Column("inert_share", "inert", show=lambda share: f"{100 * share:.1f} %")] if inert else []),
        *(Column(cost, COST_TITLES[cost], show=_scaled(cost)) for cost in COST_TITLES if is_shown(data, cost)),
        Column("speed"),
        *(Column(name, with_direction(data, name), show="{:.2f}") for name in names),
    ]
    rows = []
    for model in sorted(
        data["entries"], key=lambda model: (model["method"] != "dense", model["method"], model["rate"])
    ):
        title = model["name"] + (f" ({model['note'].upper()})" if model["note"] else "")
        speed = None if model["speed"] is None else f"{model['speed']:.2f}" + " noisy" * model["noisy"]
        values = {name: quality["value"] for name, quality in model["qualities"].items()}
        for name in values:
            if any(place.startswith(f"{name}/") for place in model["pareto"]):
                values[name] = Bold(values[name])
        rows.append({**model, **values, "model": title, "speed": speed})
    return Table(columns, rows)


def explanation(data: dict) -> list[str]:
    """What the table's words mean, and what must be said beside the numbers."""
    protocols = sorted({quality["protocol"] for model in data["entries"] for quality in model["qualities"].values()})
    front = (
        "bold: no other model is better in it without costing more of something"
        if qualities(data)
        else "no quality was measured"
    )
    lines = [
        "Rate: share of the dense encoder's prunable weights that is gone or zero. "
        f"Inert: share of the weights left whose units are scaled by less than {INERT}. MACs and time: "
        f"{data['seconds_of_audio']:g} s of audio. Speed: against the dense encoder. {front[0].upper()}{front[1:]}.",
    ]
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
    return lines + [note[0].upper() + note[1:] + ("" if note.endswith(".") else ".") for note in data["notes"]]


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


def page(data: dict, pictures: dict[str, bytes]) -> str:
    """One HTML page that needs nothing else: table, pictures and what they say."""
    shown = table(data)
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(title)}</th>" for title in shown.header) + "</tr>"]
    for values, texts in zip(shown.rows, shown.cells(), strict=True):
        cells = "".join(
            f"<td{' class=pareto' * isinstance(value, Bold)}>{html.escape(text)}</td>"
            for value, text in zip(values, texts, strict=True)
        )
        lines.append(f"<tr{' class=dense' * (texts[1] == 'dense')}>{cells}</tr>")
    images = []
    for name, picture in pictures.items():
        title, source = html.escape(name), f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        images.append(f"<h2>{title}</h2><img alt='{title} against each cost' src='{source}'>")
    stamp = f"s3prl_pruned {data.get('versions', {}).get('s3prl_pruned', '')}, {data.get('date', '')[:10]}"
    return "\n".join(
        [
            "<!doctype html>",
            "<html lang=en><head><meta charset=utf-8><title>Trade-off report</title>",
            f"<style>{_CSS}</style></head><body>",
            "<h1>What each model costs, and what it is worth</h1>",
            *(f"<p>{html.escape(line)}</p>" for line in explanation(data)),
            "<div class=wide>",
            *lines,
            "</table></div>",
            *images,
            f"<p><small>{html.escape(stamp)}</small></p></body></html>",
            "",
        ]
    )


def _scaled(cost: str) -> Callable[[float], str]:
    return lambda value: f"{value * COST_SCALES[cost]:,.3f}"


def _file_name(quality: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in quality).strip("_")
