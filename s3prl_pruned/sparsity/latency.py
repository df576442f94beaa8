"""Expected time on one device, from a table of measured parts (`tools/timing.py --latency-table` writes it).

Parts are interpolated linearly, so that a time has a gradient to the counts that it is of. Where a larger part was
measured faster than a smaller one, that is noise, and the smaller one's time is taken.
"""

import bisect
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from s3prl_pruned.config import ADDED, UserError, from_dict
from s3prl_pruned.models.spec import EncoderConfig
from s3prl_pruned.resources import existing
from s3prl_pruned.sparsity.counts import EncoderCounts, LayerCounts, total

Scalar: TypeAlias = float | Tensor
"""A count or a time: of a structure, or (a tensor, scalar or (L,) of L layers) expected under gates."""
FORMAT, FORMAT_VERSION = "s3prl_pruned.latency", 1
_NOT_ITS_SPEED = (
    *("family", "padding_rule", "dropout", "attention_dropout", "activation_dropout", "feature_grad_mult"),
    *("channel_scale", "states", "key_bias"),
)
"""Fields of a shape that take no time in inference."""


@dataclass(kw_only=True)
class Line:
    """Seconds of a part by one count."""

    counts: tuple[float, ...]
    """Ascending, at least two."""
    seconds: tuple[float, ...]
    """Measured, one per count."""

    def validate(self) -> None:
        """Raise UserError where a value is out of its range."""
        _check_axis("counts", self.counts)
        _check_seconds(self.seconds, len(self.counts))
        self.seconds = tuple(itertools.accumulate(self.seconds, max))

    def at(self, count: Scalar) -> Scalar:
        """Seconds at a count, interpolated."""
        return interpolate(self.counts, self.seconds, count)


@dataclass(kw_only=True)
class Grid:
    """Seconds of a part by two counts."""

    rows: tuple[float, ...]
    """The first count; ascending, at least two."""
    columns: tuple[float, ...]
    """The second one."""
    seconds: tuple[tuple[float, ...], ...]
    """Measured, [row][column]."""

    def validate(self) -> None:
        """Raise UserError where a value is out of its range."""
        _check_axis("rows", self.rows)
        _check_axis("columns", self.columns)
        if len(self.seconds) != len(self.rows):
            raise UserError(f"`seconds` must have a row for each of {len(self.rows)}, but has {len(self.seconds)}.")
        for row in self.seconds:
            _check_seconds(row, len(self.columns))
        rising = [list(itertools.accumulate(row, max)) for row in self.seconds]
        self.seconds = tuple(itertools.accumulate(map(tuple, rising), lambda a, b: tuple(map(max, a, b))))

    def at(self, row: Scalar, column: Scalar) -> Scalar:
        """Seconds at two counts, interpolated."""
        like = next((count for count in (row, column) if isinstance(count, Tensor)), None)
        if like is None:
            by_row = [interpolate(self.columns, seconds, column) for seconds in self.seconds]
            return interpolate(self.rows, cast("list[float]", by_row), row)
        passed = (
            _passed(axis, count if isinstance(count, Tensor) else torch.full_like(like, count))
            for axis, count in ((self.rows, row), (self.columns, column))
        )
        down, along = passed
        steps = tuple(zip(*map(_steps, zip(*map(_steps, self.seconds), strict=True)), strict=True))
        return (down[..., :, None] * along[..., None, :] * _on(steps, like.device, like.dtype)).sum((-1, -2))


@dataclass(kw_only=True)
class Measurement:
    """How a table was measured."""

    machine: str
    """The processor's name."""
    device: str
    """torch's."""
    threads: int
    """torch's, on a CPU."""
    dtype: str
    """Of weights and activations."""
    repeats: int
    """Runs of each part; the median counts."""
    weights: str
    """Such as "random, seed 0": time does not depend on them."""
    s3prl_pruned: str
    """Version."""
    torch: str
    """Version."""
    commit: str | None
    """Of this project's clone."""
    date: str
    """UTC."""


@dataclass(kw_only=True)
class LatencyTable:
    """What the parts of one shape take on one device, for one utterance, in inference."""

    format: str
    """`FORMAT`."""
    format_version: int
    """`FORMAT_VERSION`."""
    encoder: EncoderConfig
    """The dense shape."""
    utterance_seconds: float
    """Length of the utterance."""
    cnn: tuple[Grid, ...]
    """Of each pair of neighbouring layers: the whole CNN's time by their channels, all other layers at the smallest
    count of their own axis."""
    rest: Line
    """Projection, whole positional convolution and norms, by channels of the CNN's last layer."""
    attention: Grid
    """One attention, by heads and by dimensions of each (query/key as many as value/output)."""
    feed_forward: Line
    """One feed-forward, by intermediate dimensions."""
    whole: float
    """The whole dense model, measured for comparison with the sum of its parts, seconds."""
    measured: Measurement
    """On what, and how."""
    positions: Line | None = field(default=None, metadata=ADDED)
    """The positional convolution alone, by its groups; None where none can go, and in tables of earlier versions."""

    def validate(self) -> None:
        """Raise UserError where a value is out of its range."""
        if (self.format, self.format_version) != (FORMAT, FORMAT_VERSION):
            raise UserError(
                f"`format` and `format_version` must be {FORMAT!r} and {FORMAT_VERSION}, but are {self.format!r} and "
                f"{self.format_version}. Measure again: tools/timing.py --latency-table."
            )
        pairs = len(self.encoder.conv_layers) - 1
        if len(self.cnn) != pairs or pairs < 1:
            raise UserError(f"`cnn` must hold {pairs} pairs of layers, at least one, but holds {len(self.cnn)}.")
        _check_seconds((self.whole, self.utterance_seconds), 2)

    def check(self, shape: EncoderConfig) -> None:
        """Raise UserError unless the table is of an encoder of this dense shape."""
        differing = [
            name
            for name, value in vars(shape).items()
            if name not in _NOT_ITS_SPEED and value != getattr(self.encoder, name)
        ]
        if differing:
            name = differing[0]
            raise UserError(
                f"the latency table is of another shape: its `{name}` is {getattr(self.encoder, name)}, the encoder's "
                f"is {getattr(shape, name)}. Measure one: tools/timing.py --models ours:<shape> --latency-table FILE."
            )

    def time(self, counts: EncoderCounts) -> Scalar:
        """Seconds of an encoder of which `counts` stay: the sum of its parts."""
        layers = sum(total(self._attention(layer) + self._feed_forward(layer)) for layer in counts.layers)
        rest = self.rest.at(counts.channels[-1])
        if counts.with_positions:
            rest = rest - self._time_saved(counts.position_groups)
        return self.cnn_time(counts.channels) + rest + layers

    def cnn_time(self, channels: Sequence[Scalar]) -> Scalar:
        """Seconds of the CNN.

        Its pairs are summed so that each layer's share counts once: exactly its time, where a layer's time depends on
        its own channels and those that it reads.
        """
        seconds = self.cnn[0].at(channels[0], channels[1])
        for grid, before, here in zip(self.cnn[1:], channels[1:], channels[2:], strict=False):
            seconds = seconds + grid.at(before, here) - grid.at(before, grid.columns[0])
        return seconds

    def _time_saved(self, groups: Scalar) -> Scalar:
        """By a positional convolution of which so many groups are left. None take no time."""
        if self.positions is None:
            raise UserError(
                "the latency table has no times of the positional convolution, of which groups are to go (the kind "
                "`pos`). Measure again: tools/timing.py --latency-table FILE."
            )
        fewest = self.positions.counts[0]
        left = self.positions.at(_at_least(groups, fewest)) * _at_most(groups / fewest, 1.0)
        return self.positions.at(self.encoder.pos_conv_groups) - left

    def _attention(self, layer: LayerCounts) -> Scalar:
        """No heads take no time, though few would by the measured line."""
        heads, fewest = layer.heads, self.attention.rows[0]
        some = torch.where(heads > 0, heads, 1.0) if isinstance(heads, Tensor) else max(heads, 1)
        dims = (layer.qk + layer.vo) / (2 * some)
        return self.attention.at(_at_least(heads, fewest), dims) * _at_most(heads / fewest, 1.0)

    def _feed_forward(self, layer: LayerCounts) -> Scalar:
        fewest = self.feed_forward.counts[0]
        return self.feed_forward.at(_at_least(layer.ffn, fewest)) * _at_most(layer.ffn / fewest, 1.0)


def interpolate(axis: Sequence[float], values: Sequence[float], x: Scalar) -> Scalar:
    """The piecewise linear function through (axis, values) at `x`; its first and last piece go on beyond the ends."""
    if isinstance(x, Tensor):
        return (_passed(tuple(axis), x) * _on(_steps(tuple(values)), x.device, x.dtype)).sum(-1)
    i = min(max(bisect.bisect_right(axis, x) - 1, 0), len(axis) - 2)
    return values[i] + (x - axis[i]) * (values[i + 1] - values[i]) / (axis[i + 1] - axis[i])


def _passed(axis: tuple[float, ...], x: Tensor) -> Tensor:
    """How much of each piece of an axis lies below `x`, (...) -> (..., pieces + 1), after a 1 for where it begins.

    From 0 to 1, but of the first and the last piece, which go on beyond the ends. Nothing is read from `x`'s device.
    """
    pieces = len(axis) - 1
    widths = tuple(after - before for before, after in itertools.pairwise(axis))
    starts, sizes, floor, ceiling = (
        _on(numbers, x.device, x.dtype)
        for numbers in (axis[:-1], widths, (-math.inf, *[0.0] * (pieces - 1)), (*[1.0] * (pieces - 1), math.inf))
    )
    share = (x[..., None] - starts) / sizes
    share = torch.where(share < ceiling, share, ceiling)
    share = torch.where(share < floor, floor, share)
    return torch.cat((torch.ones_like(share[..., :1]), share), -1)


def _steps(values: tuple[float, ...]) -> tuple[float, ...]:
    """The first value, then from each to the next."""
    return (values[0], *(after - before for before, after in itertools.pairwise(values)))


@lru_cache(maxsize=256)
def _on(numbers: tuple, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # kept for training, too
        return torch.tensor(numbers, device=device, dtype=dtype)


def _at_least(x: Scalar, low: float) -> Scalar:
    return torch.where(x < low, low, x) if isinstance(x, Tensor) else max(x, low)


def _at_most(x: Scalar, high: float) -> Scalar:
    return torch.where(x < high, x, high) if isinstance(x, Tensor) else min(x, high)


def read_latency_table(path: str | Path) -> LatencyTable:
    """Read a table.

    Raises:
        UserError: the file is unreadable, no such table, or damaged.
    """
    try:
        data = json.loads(existing(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: is no latency table ({error}). Measure one: tools/timing.py --latency-table FILE."
        ) from error
    return latency_table(data, str(path))


def latency_table(data: Any, where: str) -> LatencyTable:
    """A table of plain data, as JSON holds it.

    Raises:
        UserError: it is none.
    """
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(
            f"{where}: is no latency table (`format` must be {FORMAT!r}). Measure one: tools/timing.py --latency-table "
            "FILE."
        )
    return from_dict(LatencyTable, data, where)


def _check_axis(name: str, axis: tuple[float, ...]) -> None:
    if len(axis) < 2 or axis[0] <= 0 or any(b <= a for a, b in itertools.pairwise(axis)):
        raise UserError(f"`{name}` must be two or more ascending positive counts, but is {list(axis)}.")


def _check_seconds(seconds: tuple[float, ...], size: int) -> None:
    if len(seconds) != size or not all(0 < value < math.inf for value in seconds):
        raise UserError(f"seconds must be {size} positive numbers, but are {list(seconds)[:8]}.")
