"""Figure 2 of Wang et al. 2023 from an experiment's data: the mini-score against the number of parameters."""

from pathlib import Path
from statistics import stdev

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from s3prl_pruned.report.figures import BLUE, VERMILLION


def draw_scores(data: dict, path: Path) -> Path | None:
    """A point per row with a size and a mini-score; bars are standard deviations over seeds.

    Args:
        data: from `collect.collect`.
        path: the figure's file.

    Returns:
        `path`; None if no row has both.
    """
    rows = [row for row in data["rows"] if "params" in row and (row["mini_score"] or {}).get("score") is not None]
    if not rows:
        return None
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for row in rows:
        seeds = [score for score in row["mini_score"]["seeds"] if score is not None]
        spread = stdev(seeds) if len(seeds) > 1 else 0.0
        place = row["params"] / 1e6, row["mini_score"]["score"]
        axes.errorbar(
            *place,
            yerr=spread,
            fmt="o" if row["recipe"] else "s",
            color=VERMILLION if row["recipe"] else BLUE,
            capsize=3,
        )
        axes.annotate(row["name"], place, xytext=(6, 4), textcoords="offset points", fontsize=8)
    ends = data["mini_score"]
    axes.set_xlabel("parameters (millions)")
    axes.set_ylabel(f"mini-score (0: {ends['low']}, 1000: {ends['high']})")
    axes.set_title(
        f"{data['protocol'] or 'official'} protocol, {data['steps']} steps; bars: standard deviation over seeds",
        fontsize=8,
    )
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
