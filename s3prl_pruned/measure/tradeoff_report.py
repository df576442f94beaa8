"""The trade-off document (`tradeoff.py`) as table, pictures and one page to send. Drawn from the JSON alone."""

import base64
import csv
import html
import io
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from s3prl_pruned.checkpoint import write_text
from s3prl_pruned.config import UserError
from s3prl_pruned.measure.figures import BLUE, GREEN, ORANGE, SKY, VERMILLION
from s3prl_pruned.superb.results import write_json

COST_TITLES = {
    "parameters": "parameters (millions)",
    "nonzero_parameters": "parameters not zero (millions)",
    "macs": "MACs (G)",
    "seconds": "time (ms)",
}
_SCALES = {"parameters": 1e-6, "nonzero_parameters": 1e-6, "macs": 1e-9, "seconds": 1e3}
_STYLES = [(BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), (ORANGE, "D"), (SKY, "v"), ("#CC79A7", "P"), ("#000000", "X"), ("#888888", "*"), ("#8C510A", "p")]
_CSS = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1200px;padding:0 1em}table{border-collapse:collapse;"
    "font-size:13px}td,th{border:1px solid #ccc;padding:3px 8px;text-align:right;white-space:nowrap}td:first-child,td:nth-child(2),"
    "th{text-align:left}tr.dense{background:#f3f3f3}td.pareto{font-weight:bold;background:#e3f1fb}img{max-width:100%}"
    ".wide{overflow-x:auto}"
)


def check_document(data: dict, where: str) -> dict:
    """Refuse what is no trade-off document.

    Raises:
        UserError: a key is missing.
    """
    missing = [key for key in ("entries", "seconds_of_audio", "notes") if key not in data]
    if missing or not data["entries"]:
        raise UserError(f"{where}: must be the JSON document of tools/tradeoff.py, but lacks {missing or 'entries'}.")
    return data


def write(data: dict, folder: Path) -> list[Path]:
    """Write `tradeoff.json`, `.csv`, `.md`, `.html` and a picture per quality into a folder.

    Raises:
        UserError: a report stands there already, or cannot be written.
    """
    refuse_existing(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {name: png(quality_against_costs(data, name)) for name in qualities(data)}
    paths = [folder / "tradeoff.json"]
    write_json(paths[0], data)
    for kind, text in (("csv", as_csv(data)), ("md", markdown(data)), ("html", page(data, pictures))):
        paths.append(folder / f"tradeoff.{kind}")
        write_text(paths[-1], text)
    for name, picture in pictures.items():
        paths.append(folder / f"tradeoff_{_file_name(name)}.png")
        paths[-1].write_bytes(picture)
    return paths


def refuse_existing(folder: Path) -> None:
    """Raise UserError where `write` would have to overwrite."""
    standing = sorted(folder.glob("tradeoff.*"))
    if standing:
        raise UserError(f"{standing[0]}: exists already, and a report is never overwritten. Name another folder (--output).")


def qualities(data: dict) -> list[str]:
    """Names of all qualities, those that most models have first."""
    names = [name for entry in data["entries"] for name in entry["qualities"]]
    return sorted(dict.fromkeys(names), key=lambda name: -names.count(name))


def as_csv(data: dict) -> str:
    """All numbers, a line per model."""
    names, file = qualities(data), io.StringIO()
    fixed = ["name", "method", "rate", "parameters", "nonzero_parameters", "macs", "seconds", "speed", "noisy", "steps", "teacher", "note", "sha256", "path"]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*fixed, *names, *(f"{name} protocol" for name in names), *(f"{name} runs" for name in names), "pareto"])
    for entry in data["entries"]:
        found = [entry["qualities"].get(name, {}) for name in names]
        figures = [quality.get(key, "") for key in ("value", "protocol", "runs") for quality in found]
        writer.writerow(["" if entry[key] is None else entry[key] for key in fixed] + figures + [" ".join(p.replace(" ", "_") for p in entry["pareto"])])
    return file.getvalue()


def markdown(data: dict) -> str:
    """The table; on the Pareto front of a quality and some cost its figure is bold."""
    rows = [[cell if not bold else f"**{cell}**" for cell, bold in row] for row in table(data)]
    rows.insert(1, ["---"] * len(rows[0]))
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([*lines, "", *explanation(data), ""])


def table(data: dict) -> list[list[tuple[str, bool]]]:
    """Header and rows: text, and whether it is on a Pareto front."""
    names = qualities(data)
    shown = [cost for cost in COST_TITLES if _is_shown(data, cost)]
    header = ["model", "method", "rate", *(COST_TITLES[cost] for cost in shown), "speed", *(_with_direction(data, name) for name in names)]
    rows = [[(title, False) for title in header]]
    for entry in sorted(data["entries"], key=lambda entry: (entry["method"] != "dense", entry["method"], entry["rate"])):
        title = entry["name"] + (f" ({entry['note'].upper()})" if entry["note"] else "")
        cells = [(title, False), (entry["method"], False), (f"{100 * entry['rate']:.1f} %", False)]
        for cost in shown:
            value = entry[cost]
            cells.append(("-" if value is None else f"{value * _SCALES[cost]:,.3f}", False))
        cells.append(("-" if entry["speed"] is None else f"{entry['speed']:.2f}" + " noisy" * entry["noisy"], False))
        for name in names:
            quality = entry["qualities"].get(name)
            fronts = any(front.startswith(f"{name}/") for front in entry["pareto"])
            cells.append(("-" if quality is None else f"{quality['value']:.2f}", fronts))
        rows.append(cells)
    return rows


def explanation(data: dict) -> list[str]:
    """What the table's words mean, and what must be said beside the numbers."""
    protocols = sorted({quality["protocol"] for entry in data["entries"] for quality in entry["qualities"].values()})
    front = "bold: no other model is better in it without costing more of something" if qualities(data) else "no quality was measured"
    lines = [
        f"Rate: share of the dense encoder's prunable weights that is gone or zero. MACs and time: {data['seconds_of_audio']:g} s of "
        f"audio. Speed: against the dense encoder. {front[0].upper()}{front[1:]}.",
    ]
    if ranges := _ranges(data):
        lines.append(f"Parameters not zero, in millions, by method: {'; '.join(ranges)}. Compare methods at equal size only where these overlap.")
    if any(entry["nonzero_parameters"] != entry["parameters"] for entry in data["entries"]):
        lines.append("Weights that are zero where they stand save no time: nothing here leaves them out, and none is claimed.")
    if protocols and protocols != ["official"]:
        lines.append(f"Protocols: {', '.join(protocols)}; what is not official compares these rows with one another and with nothing else.")
    return lines + [note[0].upper() + note[1:] + ("" if note.endswith(".") else ".") for note in data["notes"]]


def _ranges(data: dict) -> list[str]:
    """The sizes at which each method stands, where there are several methods."""
    sizes: dict[str, list[float]] = {}
    for entry in data["entries"]:
        if entry["method"] != "dense":
            sizes.setdefault(entry["method"], []).append(entry["nonzero_parameters"] / 1e6)
    spans = {method: (min(own), max(own)) for method, own in sizes.items()}
    return [f"{method} {low:.2f}" + f" to {high:.2f}" * (high > low) for method, (low, high) in spans.items()] if len(spans) > 1 else []


def quality_against_costs(data: dict, name: str) -> Figure:
    """One quality over each cost, a panel each; a colour per method, rings and a line on the Pareto front."""
    entries = [entry for entry in data["entries"] if name in entry["qualities"]]
    shown = [cost for cost in COST_TITLES if _is_shown({"entries": entries}, cost)]
    methods = list(dict.fromkeys(entry["method"] for entry in entries))
    figure = Figure(figsize=(4.2 * len(shown), 4.8), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, cost in zip(panels, shown):
        for number, method in enumerate(methods):
            own = sorted((e for e in entries if e["method"] == method and e[cost] is not None), key=lambda e: e[cost])
            colour, marker = _STYLES[number % len(_STYLES)]
            axes.plot(
                [e[cost] * _SCALES[cost] for e in own], [e["qualities"][name]["value"] for e in own],
                color=colour, marker=marker, linestyle=":", linewidth=1, markersize=7, label=method,
            )  # fmt: skip
        for protocol in sorted({e["qualities"][name]["protocol"] for e in entries}):
            front = [e for e in entries if f"{name}/{cost}" in e["pareto"] and e["qualities"][name]["protocol"] == protocol]
            front.sort(key=lambda e: e[cost])
            places = [e[cost] * _SCALES[cost] for e in front], [e["qualities"][name]["value"] for e in front]
            axes.plot(*places, color="black", linewidth=1, marker="o", markersize=13, markerfacecolor="none", label="Pareto front")
        axes.set(xlabel=COST_TITLES[cost])
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(_with_direction(data, name))
    notes = sorted({entry["note"].upper() for entry in entries if entry["note"]})
    figure.suptitle(f"{name} against cost" + f" ({', '.join(notes)})" * bool(notes), fontsize=12)
    handles = dict(zip(*panels[0].get_legend_handles_labels()[::-1]))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)), fontsize=9, frameon=False)
    return figure


def page(data: dict, pictures: dict[str, bytes]) -> str:
    """One HTML page that needs nothing else: table, pictures and what they say."""
    head, *rows = table(data)
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell, _ in head) + "</tr>"]
    for row in rows:
        cells = "".join(f"<td{' class=pareto' * bold}>{html.escape(cell)}</td>" for cell, bold in row)
        lines.append(f"<tr{' class=dense' * (row[1][0] == 'dense')}>{cells}</tr>")
    images = [
        f"<h2>{html.escape(name)}</h2><img alt='{html.escape(name)} against each cost' src='data:image/png;base64,{base64.b64encode(png_).decode()}'>"
        for name, png_ in pictures.items()
    ]
    stamp = f"s3prl_pruned {data.get('versions', {}).get('s3prl_pruned', '')}, {data.get('date', '')[:10]}"
    return "\n".join(
        ["<!doctype html>", "<html lang=en><head><meta charset=utf-8><title>Trade-off report</title>", f"<style>{_CSS}</style></head><body>",
         "<h1>What each model costs, and what it is worth</h1>", *(f"<p>{html.escape(line)}</p>" for line in explanation(data)),
         "<div class=wide>", *lines, "</table></div>", *images, f"<p><small>{html.escape(stamp)}</small></p></body></html>", ""]
    )  # fmt: skip


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(file, dpi=130)
    return file.getvalue()


def _is_shown(data: dict, cost: str) -> bool:
    """Whether a cost says anything: that it was measured, and that some parameters are zero."""
    if cost == "nonzero_parameters":
        return any(entry[cost] != entry["parameters"] for entry in data["entries"])
    return any(entry[cost] is not None for entry in data["entries"])


def _with_direction(data: dict, name: str) -> str:
    found = next(entry["qualities"][name] for entry in data["entries"] if name in entry["qualities"])
    unit = "" if "score" in name else " %"
    return f"{name}{unit}, {'higher' if found['better'] == 'up' else 'lower'} is better"


def _file_name(quality: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in quality).strip("_")
