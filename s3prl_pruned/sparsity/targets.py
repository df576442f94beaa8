"""Measures of targets: sparsity, MACs, memory or time, each as the removed share of the dense model or of its CNN."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from s3prl_pruned.config import UserError, to_dict
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.gates.attach import GateConfig
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.config import Target
from s3prl_pruned.sparsity.counts import EncoderCounts, counted_macs, sparsity, weights
from s3prl_pruned.sparsity.expected import Counted, expected_encoder
from s3prl_pruned.sparsity.lagrangian import SparsityConfig
from s3prl_pruned.sparsity.latency import LatencyTable, Scalar, read_latency_table
from s3prl_pruned.sparsity.quantities import CNN, MACS, MEMORY, SPARSITY, SPEEDUP, Quantity


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A measure for encoders of one dense shape."""

    quantity: Quantity
    """One of `SPARSITY`, `MACS`, `MEMORY`, `SPEEDUP` and `CNN`."""
    shape: EncoderConfig
    """The dense shape."""
    reduction: Callable[[EncoderCounts], Scalar]
    """Removed share of the dense model when `counts` are kept, in [0, 1); for `CNN`, of the dense CNN."""
    table: LatencyTable | None = None
    """Latency table of a target of time."""
    also: tuple[tuple["Measure", float], ...] = ()
    """Measures of further targets, and how much one unit of each counts in this one's: its share over theirs."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """Entries that a card shows beside the figures: length of the utterance, device."""

    @property
    def is_sparsity(self) -> bool:
        """Whether it measures sparsity, which is always recorded."""
        return self.quantity is SPARSITY

    def of(self, spec: CompactSpec) -> float:
        """Removed share of a structure."""
        return float(self.reduction(EncoderCounts.of(self.shape, spec)))

    def expected(self, gates: Counted) -> Tensor:
        """Expected removed share under gates.

        Returns:
            A scalar with a gradient to every log_alpha (for `CNN`: to those of the channels).
        """
        return torch.as_tensor(self.reduction(expected_encoder(gates, self.shape, heads=not self.is_sparsity)))

    def fulfilled(self, spec: CompactSpec) -> float:
        """As `of`, of the target that is furthest from its share, in the unit of this one."""
        return min([self.of(spec), *(scale * other.of(spec) for other, scale in self.also)])

    def expected_fulfilled(self, gates: Counted) -> Tensor:
        """As `expected`, of the target that is furthest from its share, in the unit of this one."""
        of_all = [self.expected(gates), *(scale * other.expected(gates) for other, scale in self.also)]
        return torch.stack(of_all).amin() if self.also else of_all[0]

    def reachable(self, gates: GateConfig, spec: CompactSpec) -> float:
        """The largest expected share that gates of these kinds can reach, when all are at their lower limit.

        Args:
            gates: kinds and limits of the gates.
            spec: current structure of the encoder.
        """
        with torch.no_grad():
            return float(self.expected(gates.closed(spec, self.shape)))

    def figures(self, *, target: float, gates: Counted, realised: float, **more: float) -> dict[str, Any]:
        """Entries of a card: `target`, `expected` and `realised`, then `more`, then the conditions.

        Args:
            target: the share to remove.
            gates: the gates, for the expected share.
            realised: the share that was removed.
            more: further entries.
        """
        shares = {"target": target, "expected": float(self.expected(gates).detach()), "realised": realised}
        return {**{kind: self.quantity.shown(share) for kind, share in shares.items()}, **more, **self.conditions}


def measure_of(config: SparsityConfig, shape: EncoderConfig, table: LatencyTable | None = None) -> Measure:
    """The measure of `config.target`, with those of `config.also`.

    Args:
        config: the recipe's targets.
        shape: the dense shape of the encoder.
        table: used instead of the file that the target names.

    Raises:
        UserError: the table cannot be read or is of another shape, or the utterance is shorter than a frame.
    """
    also = [(_measure(target, shape), config.goal / target.share) for target in config.also]
    return replace(_measure(config.target, shape, table), also=tuple(also))


def _measure(target: Target, shape: EncoderConfig, table: LatencyTable | None = None) -> Measure:
    dense = EncoderCounts.dense(shape, with_cnn=False)
    if target.of == "time":
        times = _table_of(target, shape, table)
        whole = times.time(dense)
        return Measure(
            quantity=SPEEDUP,
            shape=shape,
            reduction=lambda counts: 1 - times.time(counts) / whole,
            table=times,
            conditions={"utterance_seconds": times.utterance_seconds, "measured": to_dict(times.measured)},
        )
    if target.of == "macs":
        macs = _macs_of(target, shape)
        work = sum(macs(dense).values())
        return Measure(
            quantity=MACS,
            shape=shape,
            reduction=lambda counts: 1 - sum(macs(counts).values()) / work,
            conditions={"utterance_seconds": target.seconds},
        )
    if target.of == "memory":
        return Measure(
            quantity=MEMORY,
            shape=shape,
            reduction=lambda counts: 1 - _all_weights(shape, counts) / _all_weights(shape, dense),
        )
    return Measure(
        quantity=SPARSITY,
        shape=shape,
        reduction=lambda counts: sparsity(weights(shape, counts), shape, counts),
    )


def _all_weights(shape: EncoderConfig, counts: EncoderCounts) -> Scalar:
    """Weights of CNN, projection, positional convolution and layers, pruned or not, without biases."""
    return weights(shape, replace(counts, with_cnn=True, with_positions=True))


def cnn_measure_of(config: SparsityConfig, shape: EncoderConfig, table: LatencyTable | None = None) -> Measure | None:
    """The measure of `config.cnn_target`; None without one.

    Args and errors: as `measure_of`.
    """
    target = config.cnn_target
    if target is None:
        return None
    dense = EncoderCounts.dense(shape, with_cnn=True)
    if target.of == "time":
        times = _table_of(target, shape, table)
        seconds = times.cnn_time(dense.channels)
        return Measure(
            quantity=CNN,
            shape=shape,
            reduction=lambda counts: 1 - times.cnn_time(counts.channels) / seconds,
            table=times,
            conditions={"of": "time by the latency table"},
        )
    macs = _macs_of(target, shape)
    work = macs(dense)["cnn"]
    return Measure(
        quantity=CNN,
        shape=shape,
        reduction=lambda counts: 1 - macs(counts)["cnn"] / work,
        conditions={"of": "MACs"},
    )


def _table_of(target: Target, shape: EncoderConfig, table: LatencyTable | None) -> LatencyTable:
    """The latency table of a target, checked against the shape."""
    assert target.table is not None, "a target of time has a table (Target.validate)"
    table = table or read_latency_table(target.table)
    table.check(shape)
    return table


def _macs_of(target: Target, shape: EncoderConfig) -> Callable[[EncoderCounts], Mapping[str, Scalar]]:
    samples = round(SAMPLE_RATE * target.seconds)
    if not shape.num_frames(samples):
        raise UserError(f"`seconds` of a target must be long enough for a frame, but is {target.seconds}.")
    return lambda counts: counted_macs(shape, counts, samples)
