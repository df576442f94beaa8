"""The benchmark's picture, from its JSON document alone: speed-up against parameters."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from s3prl_pruned.measure.figures import BLUE, GREEN, ORANGE, SKY, VERMILLION

_STYLES = [(BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), (ORANGE, "D"), (SKY, "v"), ("black", "x")]


def speed_up_against_parameters(data: dict) -> Figure:
    """A point per model and workload; bars are the interquartile ranges of the pairs' ratios."""
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    groups: dict[str, list[dict]] = {}
    for row in data["results"]:
        if row["params"] is not None:
            title = row["workload"] + f", {row['arrangement']}" * (row["arrangement"] in ("padded", "unpadded")) + ", TF32" * row["tf32"]
            groups.setdefault(title, []).append(row)
    for i, (title, rows) in enumerate(groups.items()):
        colour, marker = _STYLES[i % len(_STYLES)]
        errors = [row["ratio_spread"] / 2 for row in rows]
        axes.errorbar([row["params"] / 1e6 for row in rows], [row["ratio"] for row in rows], errors, fmt=marker, color=colour,
                      label=title, capsize=3, markersize=7, alpha=0.85)  # fmt: skip
    _name_models(axes, groups)
    axes.axhline(1, color="black", linestyle="--", linewidth=1)
    axes.set(xlabel="parameters (millions)", ylabel=f"speed-up over {data['baseline']}")
    largest = max(row["params"] for rows in groups.values() for row in rows)
    axes.set_xlim(0, 1.45 * largest / 1e6)  # room for the names beside the largest
    axes.set_ylim(bottom=0)
    weights = "random weights, " * bool(data.get("random"))
    threads = f", {data['threads']} thread(s)" if data["device"] == "cpu" else ""
    axes.set_title(f"Speed-up against size ({weights}{data['dtype']}, {data['device']}{threads})", fontsize=11)
    axes.legend(fontsize=9, loc="lower left")
    axes.grid(alpha=0.3)
    return figure


def _name_models(axes, groups: dict[str, list[dict]]) -> None:
    """Each model's name once, beside its fastest point; models of one size are listed above each other."""
    best: dict[str, dict] = {}
    for row in (row for rows in groups.values() for row in rows):
        if row["name"] not in best or row["ratio"] > best[row["name"]]["ratio"]:
            best[row["name"]] = row
    sizes: dict[float, list[dict]] = {}
    for row in best.values():
        sizes.setdefault(round(row["params"] / 2e6), []).append(row)
    for rows in sizes.values():
        highest = max(rows, key=lambda row: row["ratio"])
        names = "\n".join(row["name"] for row in sorted(rows, key=lambda row: -row["ratio"]))
        axes.annotate(names, (highest["params"] / 1e6, highest["ratio"]), (8, 4), textcoords="offset points", fontsize=8)


def draw(data: dict, path: Path) -> None:
    """Write the picture as PNG."""
    FigureCanvasAgg(speed_up_against_parameters(data)).print_figure(path, dpi=150)
