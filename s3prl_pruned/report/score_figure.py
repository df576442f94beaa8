"""Figure 2 of Wang et al. 2023: the SUPERB score against the number of parameters, published models and ours."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.score.score import SCALES, Scale
from s3prl_pruned.superb.score.scored_models import ScoredModel
from s3prl_pruned.superb.score.table import NOT_ON_SCALE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
_LOOKS = {
    "measured": (VERMILLION, "*", 13, "measured here"),
    "published": (BLUE, "o", 6, "published"),
    "given": (GREEN, "s", 6, "given by hand"),
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model on one scale."""

    name: str
    kind: str
    """``measured``, ``published`` or ``given``."""
    params_millions: float
    score: float
    exact: bool = True
    """False where a task was not run with the official settings."""


def points_of(models: list[ScoredModel], scale: Scale) -> list[Point]:
    """What can be drawn: models with a full score and a number of parameters."""
    points = []
    for model in models:
        score = model.scores[scale].total
        if model.params_millions is not None and score is not None:
            exact = all(result.protocol in ("official", model.kind) for result in model.results.values())
            points.append(
                Point(name=model.name, kind=model.kind, params_millions=model.params_millions, score=score, exact=exact)
            )
    return points


def left_out(models: list[ScoredModel]) -> list[str]:
    """Why models are in neither panel, in words."""
    reasons = []
    for model in models:
        missing = [] if model.params_millions is not None else ["no number of parameters"]
        if not model.on_scale:
            missing.append(NOT_ON_SCALE)
        elif all(model.scores[scale].total is None for scale in SCALES):
            missing.append(f"no score, missing {' '.join(model.scores['leaderboard'].missing)}")
        if missing:
            reasons.append(f"{model.name}: {', '.join(missing)}")
    return reasons


def draw(points: dict[Scale, list[Point]]) -> Figure:
    """One panel per scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 * len(points), 5), layout="constrained")
    for axes, (scale, drawn) in zip(figure.subplots(1, len(points), squeeze=False)[0], points.items(), strict=True):
        _panel(axes, scale, drawn)
    return figure


def write_figure(path: Path, models: list[ScoredModel]) -> None:
    """Draw both scales into a picture file, of the kind that its name's ending says.

    Raises:
        UserError: if no model can be drawn, or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    points = {scale: points_of(models, scale) for scale in SCALES}
    if not any(points.values()):
        reasons = "; ".join(left_out(models))
        raise UserError(f"{path}: no row has both a score and a number of parameters ({reasons}).")
    figure = draw({scale: drawn for scale, drawn in points.items() if drawn})
    canvas = FigureCanvasAgg(figure)
    kind = path.suffix.lstrip(".").lower()
    if kind not in canvas.get_supported_filetypes():
        raise UserError(
            f"{path}: a picture must be one of {', '.join(sorted(canvas.get_supported_filetypes()))}, but is {kind!r}."
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        canvas.print_figure(temporary, format=kind, dpi=150)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error}).") from error


def _panel(axes: Axes, scale: Scale, points: list[Point]) -> None:
    for kind, (colour, marker, size, label) in _LOOKS.items():
        drawn = [point for point in points if point.kind == kind]
        if drawn:
            sizes, scores = zip(*((point.params_millions, point.score) for point in drawn), strict=True)
            axes.plot(sizes, scores, marker, color=colour, markersize=size, label=label)
    axes.set(xlabel="parameters (millions)", ylabel="SUPERB score", title=f"{scale} scale")
    low, high = min(p.score for p in points), max(p.score for p in points)
    room = max(high - low, 50)
    widest = max(p.params_millions for p in points)
    axes.set_ylim(low - 0.1 * room, high + 0.1 * room)
    axes.set_xlim(0, 1.45 * widest)
    for point, place in label_places(points, gap=0.06 * room, reach=0.4 * widest, aside=0.04 * widest):
        text = point.name + ("" if point.exact else " *")
        axes.annotate(
            text, (point.params_millions, point.score), place,
            fontsize=8, va="center", color=_LOOKS[point.kind][0],
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5, "shrinkB": 3},
        )  # fmt: skip
    if not all(point.exact for point in points):
        axes.text(0.02, 0.02, "* not the official settings", transform=axes.transAxes, fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=8)


def label_places(
    points: list[Point], *, gap: float, reach: float, aside: float
) -> list[tuple[Point, tuple[float, float]]]:
    """Where to write the names so that none covers another.

    They stand in columns, as near to the points' heights as ``gap`` allows.

    Args:
        points: of one panel.
        gap: between two names above each other, in scores.
        reach: of a column: names of points farther apart than this do not meet, in millions of parameters.
        aside: from a column's rightmost point to its names.
    """
    columns: list[list[Point]] = []
    for point in sorted(points, key=lambda point: point.params_millions):
        if columns and point.params_millions - columns[-1][0].params_millions <= reach:
            columns[-1].append(point)
        else:
            columns.append([point])
    placed = []
    for column in columns:
        # Blocks of touching names, each centred on its points; two that meet become one.
        blocks: list[list[Point]] = []
        for point in sorted(column, key=lambda point: point.score):
            blocks.append([point])
            while len(blocks) > 1 and _heights(blocks[-1], gap)[0] - _heights(blocks[-2], gap)[-1] < gap:
                blocks[-2:] = [blocks[-2] + blocks[-1]]
        right = max(point.params_millions for point in column) + aside
        for block in blocks:
            heights = _heights(block, gap)
            placed += [(point, (right, height)) for point, height in zip(block, heights, strict=True)]
    return placed


def _heights(block: list[Point], gap: float) -> list[float]:
    middle = sum(point.score for point in block) / len(block)
    return [middle + gap * (place - (len(block) - 1) / 2) for place in range(len(block))]
