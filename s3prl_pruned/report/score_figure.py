"""The SUPERB score against models' costs: parameters (figure 2 of Wang et al. 2023), MACs and measured time.

Published models and ours, with the Pareto front of each panel. A model is in a panel only if both of its values are
known: nothing is estimated.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from s3prl_pruned.config import UserError
from s3prl_pruned.report.pareto import on_front
from s3prl_pruned.superb.score.costs import SECONDS
from s3prl_pruned.superb.score.score import SCALES, Scale
from s3prl_pruned.superb.score.scored_models import ScoredModel
from s3prl_pruned.superb.score.table import why_not_on_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
_LOOKS = {
    "measured": (VERMILLION, "*", 13, "measured here"),
    "published": (BLUE, "o", 6, "published"),
    "given": (GREEN, "s", 6, "given by hand"),
}
_LOG_FROM = 5.0
"""Ratio of the highest to the lowest cost in a panel from which on its axis is logarithmic."""
_TICKS = [tick * 10.0**power for power in range(-3, 7) for tick in (1, 1.5, 2, 3, 5, 7)]
"""Ticks of logarithmic axes."""


@dataclass(frozen=True)
class CostAxis:
    """One measure of a model's cost."""

    title: str
    missing: str
    """Text for a model whose cost is unknown."""
    of: Callable[[ScoredModel], float | None]


AXES = {
    "parameters": CostAxis("parameters (millions)", "no number of parameters", lambda model: model.params_millions),
    "macs": CostAxis(
        "MACs on superbbenchmark.org's audio (G)",
        "no MACs",
        lambda model: None if model.costs.macs is None else model.costs.macs / 1e9,
    ),
    "time": CostAxis(
        f"time for {SECONDS:g} s of audio (ms)",
        "no time",
        lambda model: None if model.costs.seconds is None else 1000 * model.costs.seconds,
    ),
}
Panel = tuple[Scale, str]
"""A scale, and a key of `AXES`."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model in one panel."""

    name: str
    kind: str
    """``measured``, ``published`` or ``given``."""
    cost: float
    score: float
    exact: bool = True
    """False if a task was not run with the official settings."""


def points_of(models: list[ScoredModel], scale: Scale, cost: str = "parameters") -> list[Point]:
    """The points to draw: models with a full score and a known cost.

    Args:
        models: rows of the score table.
        scale: scale of the scores.
        cost: a key of `AXES`.
    """
    points = []
    for model in models:
        score, spent = model.scores[scale].total, AXES[cost].of(model)
        if spent is not None and spent > 0 and score is not None:
            exact = all(result.protocol in ("official", model.kind) for result in model.results.values())
            points.append(Point(name=model.name, kind=model.kind, cost=spent, score=score, exact=exact))
    return points


def panels_of(models: list[ScoredModel]) -> dict[Panel, list[Point]]:
    """The points of every panel that is not empty."""
    found = {(scale, cost): points_of(models, scale, cost) for scale in SCALES for cost in AXES}
    return {panel: points for panel, points in found.items() if points}


def left_out(models: list[ScoredModel]) -> list[str]:
    """Why models are in no panel, or our own and hand-written ones not in all, in words."""
    drawn = {"parameters"} | {cost for _, cost in panels_of(models)}
    reasons = []
    for model in models:
        missing = [axis.missing for cost, axis in AXES.items() if cost in drawn and axis.of(model) is None]
        if not model.on_scale:
            missing.append(why_not_on_scale(model))
        elif all(model.scores[scale].total is None for scale in SCALES):
            missing.append(f"no score, missing {' '.join(model.scores['leaderboard'].missing)}")
        elif model.kind == "published" and len(missing) < len(drawn):
            continue  # most have only some of their costs published
        if missing:
            reasons.append(f"{model.name}: {', '.join(missing)}")
    return reasons


def front_of(points: list[Point]) -> list[Point]:
    """The points that no other beats, sorted by cost. Models not run with the official settings are left out."""
    exact = [point for point in points if point.exact]
    best = on_front([(point.cost, point.score) for point in exact])
    return sorted((point for point, is_best in zip(exact, best, strict=True) if is_best), key=lambda point: point.cost)


def draw(panels: dict[Panel, list[Point]], *, times: str | None = None) -> Figure:
    """A row for each scale, a column for each cost.

    Args:
        panels: the points of each panel.
        times: the machine that was timed, shown below the time axis.
    """
    from matplotlib.figure import Figure

    scales, costs = list(dict.fromkeys(scale for scale, _ in panels)), list(dict.fromkeys(cost for _, cost in panels))
    figure = Figure(figsize=(7 * len(costs), 6.5 * len(scales)), layout="constrained")
    grid = figure.subplots(len(scales), len(costs), squeeze=False)
    for row, scale in zip(grid, scales, strict=True):
        for axes, cost in zip(row, costs, strict=True):
            if points := panels.get((scale, cost)):
                title = AXES[cost].title + (f"\n{times}" if times and cost == "time" else "")
                _panel(axes, points, title=f"{scale} scale", cost=title)
            else:
                axes.set_axis_off()
    return figure


def write_figure(path: Path, models: list[ScoredModel], *, times: str | None = None) -> None:
    """Draw both scales into an image file; the suffix decides its format.

    Raises:
        UserError: if no model can be drawn, or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    panels = panels_of(models)
    if not panels:
        nothing = "; ".join(left_out(models))
        raise UserError(f"{path}: no row has both a score and a known cost, such as its parameters ({nothing}).")
    canvas = FigureCanvasAgg(draw(panels, times=times))
    kind = path.suffix.lstrip(".").lower()
    if kind not in canvas.get_supported_filetypes():
        raise UserError(
            f"{path}: a figure must be one of {', '.join(sorted(canvas.get_supported_filetypes()))}, but is {kind!r}."
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        canvas.print_figure(temporary, format=kind, dpi=130)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error}).") from error


def _panel(axes: Axes, points: list[Point], *, title: str, cost: str) -> None:
    for kind, (colour, marker, size, label) in _LOOKS.items():
        drawn = [point for point in points if point.kind == kind]
        if drawn:
            places = zip(*((point.cost, point.score) for point in drawn), strict=True)
            axes.plot(*places, marker, color=colour, markersize=size, label=label)
    if front := front_of(points):
        places = zip(*((point.cost, point.score) for point in front), strict=True)
        axes.plot(
            *places, color="black", linewidth=1, marker="o", markersize=12, markerfacecolor="none",
            label="Pareto front", zorder=1,
        )  # fmt: skip
    axes.set(xlabel=cost, ylabel="SUPERB score", title=title)
    low, high = min(p.score for p in points), max(p.score for p in points)
    room = max(high - low, 50)
    axes.set_ylim(low - 0.1 * room, high + 0.1 * room)
    cheapest, dearest = min(p.cost for p in points), max(p.cost for p in points)
    logarithmic = dearest > _LOG_FROM * cheapest
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(0.8 * cheapest, 2.5 * dearest)
        axes.set_xticks([tick for tick in _TICKS if 0.8 * cheapest < tick < 2.5 * dearest])
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(0, 1.45 * dearest)
    width = math.log(dearest / cheapest) if logarithmic else dearest
    placed = label_places(points, gap=0.042 * room, reach=0.3 * width, aside=0.03 * width, logarithmic=logarithmic)
    for point, place in placed:
        text = point.name + ("" if point.exact else " *")
        axes.annotate(
            text, (point.cost, point.score), place,
            fontsize=7, va="center", color=_LOOKS[point.kind][0],
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5, "shrinkB": 3},
        )  # fmt: skip
    if not all(point.exact for point in points):
        axes.text(0.02, 0.02, "* not the official settings, so not in the front", transform=axes.transAxes, fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=8)


def label_places(
    points: list[Point], *, gap: float, reach: float, aside: float, logarithmic: bool = False
) -> list[tuple[Point, tuple[float, float]]]:
    """Where to write the names so that they do not overlap.

    They are in columns, as close to the points' heights as ``gap`` allows.

    Args:
        points: points of one panel.
        gap: vertical distance between two names, in units of the score.
        reach: width of a column, in the axis's unit: names of points farther apart do not overlap.
        aside: distance from a column's rightmost point to its names, in the axis's unit.
        logarithmic: whether the axis is logarithmic, and with it the unit of ``reach`` and ``aside``.
    """

    def place_of(point: Point) -> float:
        return math.log(point.cost) if logarithmic else point.cost

    columns: list[list[Point]] = []
    for point in sorted(points, key=place_of):
        if columns and place_of(point) - place_of(columns[-1][0]) <= reach:
            columns[-1].append(point)
        else:
            columns.append([point])
    placed = []
    for column in columns:
        # Blocks of adjacent names, each centred on its points; overlapping blocks are merged.
        blocks: list[list[Point]] = []
        for point in sorted(column, key=lambda point: point.score):
            blocks.append([point])
            while len(blocks) > 1 and _heights(blocks[-1], gap)[0] - _heights(blocks[-2], gap)[-1] < gap:
                blocks[-2:] = [blocks[-2] + blocks[-1]]
        right = max(map(place_of, column)) + aside
        right = math.exp(right) if logarithmic else right
        for block in blocks:
            heights = _heights(block, gap)
            placed += [(point, (right, height)) for point, height in zip(block, heights, strict=True)]
    return placed


def _heights(block: list[Point], gap: float) -> list[float]:
    middle = sum(point.score for point in block) / len(block)
    return [middle + gap * (place - (len(block) - 1) / 2) for place in range(len(block))]
