"""Table and figure of several structures from one run's gates (`pretrain/structures.py`), from plain data only."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from s3prl_pruned.report.figures import BLUE, VERMILLION
from s3prl_pruned.report.files import ReportFiles, png
from s3prl_pruned.report.tradeoff_columns import COSTS
from s3prl_pruned.sparsity.quantities import INERT, QUANTITIES, SPARSITY, Quantity
from s3prl_pruned.tables import Column, Table

FILES = ReportFiles(
    name="structures",
    command="tools/export.py --targets",
    keys=("checkpoint", "quantity", "seconds_of_audio", "notes"),
    rows="structures",
    row_key="realised",
)
_COSTS = {**{key: cost.header for key, cost in COSTS.items()}, "expected_seconds": "time by the latency table (ms)"}
_SCALES = {**{key: cost.scale for key, cost in COSTS.items()}, "expected_seconds": 1e3}
_COLUMNS = (
    "name target realised own missed sparsity parameters macs inert_share expected_seconds seconds speed noisy "
    "held_out_distill"
).split()


def write(data: dict[str, Any], folder: Path) -> list[Path]:
    """Write `structures.json`, `.csv`, `.md` and `.png` into a folder.

    Args:
        data: the document: `FILES.keys`, and `structures` (`pretrain.structures.Structure` as dicts).
        folder: folder without these files.

    Raises:
        UserError: a file exists already, or cannot be written.
    """
    texts = {"csv": Table(_COLUMNS, data["structures"]).csv(), "md": markdown(data)}
    return FILES.write(data, folder, texts=texts, pictures={"": png(picture(data))})


def markdown(data: dict[str, Any]) -> str:
    """The table and its notes."""
    return "\n".join([table(data).markdown(), "", *data["notes"], ""])


def table(data: dict[str, Any]) -> Table:
    """A row for each structure, the dense student first; costs that were not measured have no column."""
    of = _quantity(data)

    def figure(value: float) -> str:
        return of.short_figure.format(of.scale * value)

    columns = [
        Column("name", "structure"),
        Column("target", show=figure, align="right"),
        Column("realised", f"realised {of.name}", show=figure, align="right"),
        *([] if of is SPARSITY else [Column("sparsity", show="{:.1%}", align="right")]),
        *(Column(cost, _COSTS[cost], show=_scaled(cost), align="right") for cost in _costs(data)),
        *([Column("speed", "speed, times dense", align="right")] if _any(data, "speed") else []),
        Column("inert_share", "inert", show="{:.1%}", align="right"),
        *([Column("held_out_distill", "held-out loss", show="{:.4g}", align="right")] * _any(data, "held_out_distill")),
        Column("remark"),
    ]
    keys = [column.key for column in columns]
    rows = []
    for one in data["structures"]:
        remarks = {"the run's own": one["own"], "TARGET MISSED": one["missed"]}
        speed = None if one["speed"] is None else f"{one['speed']:.2f}" + " noisy" * one["noisy"]
        row = {**one, "speed": speed, "remark": ", ".join(text for text, holds in remarks.items() if holds)}
        rows.append({key: row[key] for key in keys})
    return Table(columns, rows)


def picture(data: dict[str, Any]) -> Figure:
    """Held-out loss against each cost, one panel per cost; without losses, the realised value is shown instead.

    The structure of the run's own target, for which the weights have settled, has another colour.
    """
    shown = _costs(data)
    figure = Figure(figsize=(4.2 * len(shown), 4.2), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, cost in zip(panels, shown, strict=True):
        _draw(axes, data, cost)
    of = _quantity(data)
    panels[0].set_ylabel("held-out distillation loss, lower is better" if _any(data, "held_out_distill") else of.axis)
    note = f" ({data['teacher_note'].upper()})" if data["teacher_note"] else ""
    figure.suptitle(f"structures from one run's gates, step {data['step']:,}{note}", fontsize=11)
    return figure


def _draw(axes: Axes, data: dict[str, Any], cost: str) -> None:
    of, losses = _quantity(data), _any(data, "held_out_distill")
    points = []
    for one in data["structures"]:
        height = one["held_out_distill"] if losses else of.scale * one["realised"]
        if one[cost] is not None and height is not None:
            points.append((one[cost] * _SCALES[cost], height, one))
    points.sort(key=lambda point: point[0])
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], color=BLUE, marker="o", markersize=6, linewidth=1)
    for x, y, one in points:
        if one["own"]:
            axes.plot([x], [y], color=VERMILLION, marker="*", markersize=14, linestyle="", label="the run's own target")
        text = "dense" if one["target"] is None else of.short_figure.format(of.scale * one["target"])
        axes.annotate(text, (x, y), textcoords="offset points", xytext=(6, 6), fontsize=8)
    axes.set(xlabel=_COSTS[cost])
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    if any(one["own"] for _, _, one in points):
        axes.legend(fontsize=8, frameon=False)


def notes(data: dict[str, Any]) -> list[str]:
    """Notes that belong to the numbers.

    Args:
        data: the document without its notes.
    """
    lines = [
        f"Of {data['checkpoint']} (step {data['step']} of {data['total_steps']}"
        + (f", {data['teacher_note'].upper()}" if data["teacher_note"] else "")
        + "). MACs"
        + (" and measured time" if _any(data, "seconds") else "")
        + f": {data['seconds_of_audio']:g} s of audio. Inert: share of the weights left whose units are scaled by less "
        f"than {INERT}."
    ]
    of = _quantity(data)
    low, high = (of.short_figure.format(of.scale * figure) for figure in data["reach"])
    lines.append(f"These gates can reach {low} to {high}.")
    if data["average"]:
        lines.append("The weights are their moving average (runner.ema_decay).")
    if data["settled"]:
        lines.append(
            "The weights have settled only for the masks of the run's own target. At other sizes the loss is that of "
            "unsettled weights: a second stage on the export (a recipe _stage2 with --student) lets them settle."
        )
    if _any(data, "expected_seconds"):
        lines.append(f"Time by the latency table: {data['table_of']}.")
    return lines


def _quantity(data: dict[str, Any]) -> Quantity:
    return QUANTITIES[data["quantity"]]


def _any(data: dict[str, Any], key: str) -> bool:
    return any(one[key] is not None for one in data["structures"])


def _costs(data: dict[str, Any]) -> list[str]:
    return [cost for cost in ("parameters", "macs", "expected_seconds", "seconds") if _any(data, cost)]


def _scaled(cost: str) -> Any:
    return lambda value: f"{value * _SCALES[cost]:.4g}"
