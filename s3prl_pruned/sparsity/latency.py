"""Expected time on one device, from a table of measured parts (`tools/timing.py --latency-table` writes it).

Times of parts are interpolated linearly, so that they have a gradient to the counts. If a larger part was measured as
faster than a smaller one, this is noise, and the time of the smaller one is used for both.
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
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.resources import existing
from s3prl_pruned.sparsity.counts import EncoderCounts, LayerCounts, total

Scalar: TypeAlias = float | Tensor
"""A count or a time: of a structure, or expected under gates (a scalar tensor, or a tensor (L,) of L layers)."""
FORMAT, FORMAT_VERSION = "s3prl_pruned.latency", 1
_NOT_ITS_SPEED = (
    *("family", "padding_rule", "dropout", "attention_dropout", "activation_dropout", "feature_grad_mult"),
    *("channel_scale", "states", "key_bias"),
)
"""Fields of a shape that do not affect the inference time."""


@dataclass(kw_only=True)
class Line:
    """Time of a part in seconds, as a function of one count."""

    counts: tuple[float, ...]
    """Ascending counts, at least two."""
    seconds: tuple[float, ...]
    """Measured seconds, one per count."""

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        _check_axis("counts", self.counts)
        _check_seconds(self.seconds, len(self.counts))
        self.seconds = tuple(itertools.accumulate(self.seconds, max))

    def at(self, count: Scalar) -> Scalar:
        """Interpolated seconds at a count."""
        return interpolate(self.counts, self.seconds, count)


@dataclass(kw_only=True)
class Grid:
    """Time of a part in seconds, as a function of two counts."""

    rows: tuple[float, ...]
    """Values of the first count, ascending, at least two."""
    columns: tuple[float, ...]
    """Values of the second count, ascending, at least two."""
    seconds: tuple[tuple[float, ...], ...]
    """Measured seconds, [row][column]."""

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        _check_axis("rows", self.rows)
        _check_axis("columns", self.columns)
        if len(self.seconds) != len(self.rows):
            raise UserError(f"`seconds` must have a row for each of {len(self.rows)}, but has {len(self.seconds)}.")
        for row in self.seconds:
            _check_seconds(row, len(self.columns))
        rising = [list(itertools.accumulate(row, max)) for row in self.seconds]
        self.seconds = tuple(itertools.accumulate(map(tuple, rising), lambda a, b: tuple(map(max, a, b))))

    def at(self, row: Scalar, column: Scalar) -> Scalar:
        """Interpolated seconds at two counts."""
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
    """How the table was measured."""

    machine: str
    """Name of the processor."""
    device: str
    """Name of the torch device."""
    threads: int
    """Threads of torch on a CPU."""
    dtype: str
    """Precision of weights and activations."""
    repeats: int
    """Runs of each part; the table holds their median."""
    weights: str
    """Such as "random, seed 0". The time does not depend on the weights."""
    s3prl_pruned: str
    """Version of this project."""
    torch: str
    """Version of torch."""
    commit: str | None
    """Git commit of this project."""
    date: str
    """Date and time in UTC."""


@dataclass(kw_only=True)
class LatencyTable:
    """Measured times of the parts of one dense shape, on one device, for one utterance, in inference."""

    format: str
    """Always `FORMAT`."""
    format_version: int
    """Always `FORMAT_VERSION`."""
    encoder: EncoderConfig
    """The dense shape."""
    utterance_seconds: float
    """Length of the utterance in seconds."""
    cnn: tuple[Grid, ...]
    """One grid per pair of neighbouring layers: time of the whole CNN by the channels of the two, with all other layers
    at the smallest count of their axis."""
    rest: Line
    """Projection, whole positional convolution and norms, by channels of the last CNN layer."""
    attention: Grid
    """One attention block, by heads and by dimensions per head (as many query/key as value/output dimensions)."""
    feed_forward: Line
    """One feed-forward block, by intermediate dimensions."""
    whole: float
    """Seconds of the whole dense model, measured to compare with the sum of its parts."""
    measured: Measurement
    """Device and conditions of the measurement."""
    positions: Line | None = field(default=None, metadata=ADDED)
    """The positional convolution alone, by its groups; None if it cannot be pruned, and in earlier tables."""

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
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
        """Raise UserError unless the table was measured for this dense shape."""
        if shape.time_reduction is not None:
            raise UserError(
                "latency tables have one frame rate for all layers, but the encoder's `time_reduction` lowers it. Use "
                "a target of macs or params."
            )
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
        """Seconds of an encoder with these counts: the sum over its parts."""
        layers = sum(total(self._attention(layer) + self._feed_forward(layer)) for layer in counts.layers)
        rest = self.rest.at(counts.channels[-1])
        if counts.with_positions:
            rest = rest - self._time_saved(counts.position_groups)
        return self.cnn_time(counts.channels) + rest + layers

    def cnn_time(self, channels: Sequence[Scalar]) -> Scalar:
        """Seconds of the CNN.

        The pairs are summed such that each layer counts once. This is exact if the time of a layer depends only on its
        own channels and on those of its input.
        """
        seconds = self.cnn[0].at(channels[0], channels[1])
        for grid, before, here in zip(self.cnn[1:], channels[1:], channels[2:], strict=False):
            seconds = seconds + grid.at(before, here) - grid.at(before, grid.columns[0])
        return seconds

    def _time_saved(self, groups: Scalar) -> Scalar:
        """Seconds that a positional convolution with this number of groups saves; without groups it takes no time."""
        if self.positions is None:
            raise UserError(
                "the latency table has no times of the positional convolution, but its groups are pruned (the kind "
                "`pos`). Measure again: tools/timing.py --latency-table FILE."
            )
        fewest = self.positions.counts[0]
        left = self.positions.at(_at_least(groups, fewest)) * _at_most(groups / fewest, 1.0)
        return self.positions.at(self.encoder.pos_conv_groups) - left

    def _attention(self, layer: LayerCounts) -> Scalar:
        """Time is 0 without heads, although the measured line would be positive there."""
        heads, fewest = layer.heads, self.attention.rows[0]
        some = torch.where(heads > 0, heads, 1.0) if isinstance(heads, Tensor) else max(heads, 1)
        dims = (layer.qk + layer.vo) / (2 * some)
        return self.attention.at(_at_least(heads, fewest), dims) * _at_most(heads / fewest, 1.0)

    def _feed_forward(self, layer: LayerCounts) -> Scalar:
        fewest = self.feed_forward.counts[0]
        return self.feed_forward.at(_at_least(layer.ffn, fewest)) * _at_most(layer.ffn / fewest, 1.0)


def interpolate(axis: Sequence[float], values: Sequence[float], x: Scalar) -> Scalar:
    """Piecewise linear function through (axis, values) at `x`; the first and the last piece extend beyond the ends."""
    if isinstance(x, Tensor):
        return (_passed(tuple(axis), x) * _on(_steps(tuple(values)), x.device, x.dtype)).sum(-1)
    i = min(max(bisect.bisect_right(axis, x) - 1, 0), len(axis) - 2)
    return values[i] + (x - axis[i]) * (values[i + 1] - values[i]) / (axis[i + 1] - axis[i])


def _passed(axis: tuple[float, ...], x: Tensor) -> Tensor:
    """Covered share of each piece of an axis up to `x`, (...) -> (..., pieces + 1); a 1 for the start comes first.

    From 0 to 1, except for the first and last piece, which extend beyond the ends. Never waits for a GPU.
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
    """The first value, followed by the differences of neighbouring values."""
    return (values[0], *(after - before for before, after in itertools.pairwise(values)))


@lru_cache(maxsize=256)
def _on(numbers: tuple, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # the cached tensor is used in training too
        return torch.tensor(numbers, device=device, dtype=dtype)


def _at_least(x: Scalar, low: float) -> Scalar:
    return torch.where(x < low, low, x) if isinstance(x, Tensor) else max(x, low)


def _at_most(x: Scalar, high: float) -> Scalar:
    return torch.where(x < high, x, high) if isinstance(x, Tensor) else min(x, high)


def read_latency_table(path: str | Path) -> LatencyTable:
    """Read a latency table.

    Raises:
        UserError: the file is unreadable, not a latency table, or damaged.
    """
    try:
        data = json.loads(existing(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: is not a latency table ({error}). Measure one: tools/timing.py --latency-table FILE."
        ) from error
    return latency_table(data, str(path))


def latency_table(data: Any, where: str) -> LatencyTable:
    """Make a table from plain data, as read from JSON.

    Raises:
        UserError: the data is not a latency table.
    """
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(
            f"{where}: is not a latency table (`format` must be {FORMAT!r}). Measure one: "
            "tools/timing.py --latency-table FILE."
        )
    return from_dict(LatencyTable, data, where)


def _check_axis(name: str, axis: tuple[float, ...]) -> None:
    if len(axis) < 2 or axis[0] <= 0 or any(b <= a for a, b in itertools.pairwise(axis)):
        raise UserError(f"`{name}` must be two or more positive counts in ascending order, but is {list(axis)}.")


def _check_seconds(seconds: tuple[float, ...], size: int) -> None:
    if len(seconds) != size or not all(0 < value < math.inf for value in seconds):
        raise UserError(f"seconds must be {size} positive numbers, but are {list(seconds)[:8]}.")
