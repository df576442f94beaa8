"""A quality against a cost as inline SVG for the trade-off page: shapes and classes; colours come from its style sheet.

Every point carries its model's number in the table (`data-model`) and a `<title>`, which browsers show on hovering.
"""

import html
import math
from collections.abc import Sequence
from typing import Any

from s3prl_pruned.report.tradeoff_columns import COSTS, RATE, TradeoffColumn, full_name, is_on_front

_WIDTH, _HEIGHT = 400, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 12, 44
_RADIUS, _RING = 5.0, 8.5


def _polygon(corners: int, *, turn: float, radius: float = _RADIUS + 1, inner: float | None = None) -> str:
    """The path of a regular polygon around 0, 0; of a star with `inner`, the radius between its points."""
    radii = [radius] * corners if inner is None else [radius, inner] * corners
    angles = [turn + 2 * math.pi * i / len(radii) for i in range(len(radii))]
    points = [f"{r * math.sin(angle):.1f} {-r * math.cos(angle):.1f}" for r, angle in zip(radii, angles, strict=True)]
    return f"M{'L'.join(points)}Z"


DENSE_MARKER = _polygon(4, turn=0, radius=8, inner=2.8)
_HALF_CIRCLE = f"a{_RADIUS:g} {_RADIUS:g} 0 1 0"
MARKERS = (
    f"M{-_RADIUS:g} 0{_HALF_CIRCLE} {2 * _RADIUS:g} 0{_HALF_CIRCLE} {-2 * _RADIUS:g} 0Z",
    _polygon(4, turn=math.pi / 4),
    _polygon(3, turn=0),
    _polygon(4, turn=0),
    _polygon(3, turn=math.pi),
    "M-2 -6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
    _polygon(5, turn=0, radius=7, inner=3),
    _polygon(5, turn=0),
)
"""Paths around 0, 0, one for each colour of the style sheet."""


def marker_of(method: str, methods: Sequence[str]) -> tuple[str, str]:
    """The class and the path of a method's points: the dense encoder has its own, others take turns."""
    if method == "dense":
        return "dense", DENSE_MARKER
    number = [each for each in methods if each != "dense"].index(method) % len(MARKERS)
    return f"m{number}", MARKERS[number]


def key(method: str, methods: Sequence[str]) -> str:
    """A method's marker alone, for the legend."""
    kind, path = marker_of(method, methods)
    return f"<svg class='key {kind}' viewBox='-9 -9 18 18' aria-hidden=true><path class=dot d='{path}'/></svg>"


def panel(
    models: Sequence[dict[str, Any]], methods: Sequence[str], quality: TradeoffColumn, cost: TradeoffColumn
) -> str:
    """One panel: axes, the Pareto front, error bars where spreads are known, and a point for each model.

    Args:
        models: rows of the table, in its order; those without one of the two numbers have no point.
        methods: in the legend's order.
        quality: on the y axis.
        cost: on the x axis.
    """
    drawn = [
        (i, model)
        for i, model in enumerate(models)
        if quality.value(model) is not None and cost.value(model) is not None
    ]
    across = Axis([_ends(cost, model) for _, model in drawn], _LEFT, _WIDTH - _RIGHT)
    up = Axis([_ends(quality, model) for _, model in drawn], _HEIGHT - _BOTTOM, _TOP)
    label = html.escape(f"{quality.header}, against {cost.header}", quote=True)
    lines = [f"<svg class=panel viewBox='0 0 {_WIDTH} {_HEIGHT}' role=group aria-label='{label}'>"]
    lines += [*_axes(across, up), *_axis_titles(quality.header, cost.header)]
    lines += _front([model for _, model in drawn], quality, cost, across, up)
    for method in sorted(methods, key=lambda method: method == "dense"):  # on top: some prune and get no smaller
        own = sorted((pair for pair in drawn if pair[1]["method"] == method), key=lambda pair: cost.value(pair[1]) or 0)
        if own:
            lines.append(_series(own, methods, quality, cost, across, up))
    return "\n".join([*lines, "</svg>"])


class Axis:
    """A linear axis with round ticks.

    Args:
        ends: of what is to be seen: (lowest, highest) of each point.
        start: its place in the picture where values begin.
        stop: where they end.
    """

    def __init__(self, ends: Sequence[tuple[float, float]], start: float, stop: float):
        low, high = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0.0, 1.0)
        if not high > low:
            low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
        margin = 0.06 * (high - low)
        self.low = max(0.0, low - margin) if low >= 0 else low - margin
        self.high, self.start, self.stop = high + margin, start, stop
        step = _round_step((self.high - self.low) / 7)
        self.decimals = max(0, -math.floor(math.log10(step)))
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        self.ticks = [i * step for i in range(first, min(last, first + 20) + 1)]

    def place(self, value: float) -> float:
        """Position of a value in the figure."""
        return self.start + (self.stop - self.start) * (value - self.low) / (self.high - self.low)


def _round_step(step: float) -> float:
    """The next of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))


def _ends(column: TradeoffColumn, model: dict[str, Any]) -> tuple[float, float]:
    value, spread = column.value(model) or 0.0, column.spread(model) or 0.0
    return value - spread, value + spread


def _axes(across: Axis, up: Axis) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    lines = []
    for tick in across.ticks:
        x = f"{across.place(tick):.1f}"
        lines.append(f"<line class=grid x1={x} x2={x} y1={_TOP} y2={bottom} />")
        lines.append(f"<text x={x} y={bottom + 16} text-anchor=middle>{tick:,.{across.decimals}f}</text>")
    for tick in up.ticks:
        y = f"{up.place(tick):.1f}"
        lines.append(f"<line class=grid x1={_LEFT} x2={right} y1={y} y2={y} />")
        lines.append(f"<text x={_LEFT - 6} y={y} dy=4 text-anchor=end>{tick:,.{up.decimals}f}</text>")
    return [*lines, f"<path class=axis d='M{_LEFT} {_TOP}V{bottom}H{right}'/>"]


def _axis_titles(quality: str, cost: str) -> list[str]:
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    return [
        f"<text class=title x={(_LEFT + _WIDTH - _RIGHT) / 2:g} y={_HEIGHT - 8} text-anchor=middle>"
        f"{html.escape(cost)}</text>",
        f"<text class=title transform='translate(11 {middle:g}) rotate(-90)' text-anchor=middle>"
        f"{html.escape(quality)}</text>",
    ]


def _front(
    models: Sequence[dict[str, Any]], quality: TradeoffColumn, cost: TradeoffColumn, across: Axis, up: Axis
) -> list[str]:
    """A line and rings for each protocol: only numbers of one protocol are compared."""
    fronts: dict[str, list[tuple[float, float]]] = {}
    for model in models:
        if is_on_front(model, quality.key, cost.key):
            place = across.place(cost.value(model) or 0), up.place(quality.value(model) or 0)
            fronts.setdefault(model["qualities"][quality.key]["protocol"], []).append(place)
    lines = []
    for places in fronts.values():
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in sorted(places))
        lines.append(f"<polyline class=front points='{points}'/>")
        lines += [f"<circle class=front cx={x:.1f} cy={y:.1f} r={_RING:g} />" for x, y in places]
    return lines


def _series(
    own: Sequence[tuple[int, dict[str, Any]]],
    methods: Sequence[str],
    quality: TradeoffColumn,
    cost: TradeoffColumn,
    across: Axis,
    up: Axis,
) -> str:
    """The points of one method, joined by a dotted line."""
    method = own[0][1]["method"]
    kind, path = marker_of(method, methods)
    places = [(across.place(cost.value(model) or 0), up.place(quality.value(model) or 0)) for _, model in own]
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    lines = [f"<g class='series {kind}' data-method={methods.index(method)}>"]
    if len(own) > 1:
        lines.append(f"<polyline class=dotted points='{joined}'/>")
    for (i, model), (x, y) in zip(own, places, strict=True):
        bars = _bars(model, (cost, across, x), (quality, up, y))
        lines.append(
            f"<g class=point data-model={i} tabindex=0>{bars}"
            f"<path class=dot transform='translate({x:.1f} {y:.1f})' d='{path}'/>"
            f"<title>{html.escape(about(model, quality))}</title></g>"
        )
    return "\n".join([*lines, "</g>"])


def _bars(
    model: dict[str, Any], flat: tuple[TradeoffColumn, Axis, float], upright: tuple[TradeoffColumn, Axis, float]
) -> str:
    """Error bars for known spreads, from the column, the axis and the position on each axis."""
    (cost, across, x), (quality, up, y) = flat, upright
    path = ""
    if cost.spread(model):
        left, right = map(across.place, _ends(cost, model))
        path += f"M{left:.1f} {y:.1f}H{right:.1f}"
    if quality.spread(model):
        bottom, top = map(up.place, _ends(quality, model))
        path += f"M{x:.1f} {bottom:.1f}V{top:.1f}"
    return f"<path class=bar d='{path}'/>" if path else ""


def about(model: dict[str, Any], quality: TradeoffColumn) -> str:
    """What hovering shows, a line each: name, method, the quality, the costs, and the command that made the model."""
    shown = [(column, column.text(model, column.few_decimals([model]))) for column in (quality, *COSTS.values())]
    zeros = model["nonzero_parameters"] != model["parameters"]
    numbers = [
        f"{column.title} {text} {column.unit}".rstrip()
        for column, text in shown
        if text is not None and (zeros or column.key != "nonzero_parameters")
    ]
    method = model["method"]
    if method != "dense":
        method += f", {RATE.text(model)} % of the weights gone or zero"
    return "\n".join([full_name(model), method, numbers[0], ", ".join(numbers[1:]), made_by(model)])


def made_by(model: dict[str, Any]) -> str:
    """The command that made a model, or its known origin if no command is recorded."""
    if model.get("command"):
        return model["command"]
    if model["method"] == "dense":
        return "the dense encoder, which the others were made of"
    return f"{model['path']} (no command is recorded)"
