"""What a target is of, measured: sparsity, MACs or time, each as the share of the dense model, or CNN, that goes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from s3prl_pruned.config import UserError, to_dict
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.gates.attach import GateConfig
from s3prl_pruned.models.spec import CompactSpec, EncoderConfig
from s3prl_pruned.sparsity.config import Target
from s3prl_pruned.sparsity.counts import EncoderCounts, counted_macs, sparsity, weights
from s3prl_pruned.sparsity.expected import Counted, expected_encoder
from s3prl_pruned.sparsity.lagrangian import SparsityConfig
from s3prl_pruned.sparsity.latency import LatencyTable, Scalar, read_latency_table
from s3prl_pruned.sparsity.quantities import CNN, MACS, SPARSITY, SPEEDUP, Quantity


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One of these, of encoders of one dense shape."""

    quantity: Quantity
    """Which: `SPARSITY`, `MACS`, `SPEEDUP` or `CNN`."""
    shape: EncoderConfig
    """The dense shape."""
    reduction: Callable[[EncoderCounts], Scalar]
    """The share of the dense model that goes where `counts` stay, in [0, 1); `CNN`: of the dense CNN."""
    table: LatencyTable | None = None
    """Whose times `SPEEDUP` means, and `CNN` where there is one."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """What a card says beside the figures: of which utterance, measured where."""

    @property
    def is_sparsity(self) -> bool:
        """Whether it is what is recorded in any case."""
        return self.quantity is SPARSITY

    def of(self, spec: CompactSpec) -> float:
        """The share that goes of a structure."""
        return float(self.reduction(EncoderCounts.of(self.shape, spec)))

    def expected(self, gates: Counted) -> Tensor:
        """The share that is expected to go under gates.

        Returns:
            A scalar with a gradient to every log_alpha (`CNN`: to the channels').
        """
        return torch.as_tensor(self.reduction(expected_encoder(gates, self.shape, heads=not self.is_sparsity)))

    def reachable(self, gates: GateConfig, spec: CompactSpec) -> float:
        """The largest expected share that gates of these kinds reach, all at their lower limit.

        Args:
            gates: their kinds, and where they end.
            spec: what the encoder has left.
        """
        with torch.no_grad():
            return float(self.expected(gates.closed(spec, self.shape)))

    def figures(self, *, target: float, gates: Counted, realised: float, **more: float) -> dict[str, Any]:
        """What a card says: `target`, `expected` and `realised`, then `more`, then the conditions.

        Args:
            target: the share that is to go.
            gates: what is expected of them.
            realised: the share that goes.
            more: other entries.
        """
        shares = {"target": target, "expected": float(self.expected(gates).detach()), "realised": realised}
        return {**{kind: self.quantity.shown(share) for kind, share in shares.items()}, **more, **self.conditions}


def measure_of(config: SparsityConfig, shape: EncoderConfig, table: LatencyTable | None = None) -> Measure:
    """What `config.target` is the target of.

    Args:
        config: holds it.
        shape: the encoder's dense shape.
        table: in place of the file that the target names.

    Raises:
        UserError: the table cannot be read, or is of another shape; an utterance too short for a frame.
    """
    dense, target = EncoderCounts.dense(shape, with_cnn=False), config.target
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
    return Measure(
        quantity=SPARSITY,
        shape=shape,
        reduction=lambda counts: sparsity(weights(shape, counts), shape, counts),
    )


def cnn_measure_of(config: SparsityConfig, shape: EncoderConfig, table: LatencyTable | None = None) -> Measure | None:
    """What `config.cnn_target` is the target of; None where there is none.

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
    """The times that a target is of, of this shape."""
    assert target.table is not None, "a target of time has a table (Target.validate)"
    table = table or read_latency_table(target.table)
    table.check(shape)
    return table


def _macs_of(target: Target, shape: EncoderConfig) -> Callable[[EncoderCounts], Mapping[str, Scalar]]:
    samples = round(SAMPLE_RATE * target.seconds)
    if not shape.num_frames(samples):
        raise UserError(f"`seconds` of a target must last a frame, but is {target.seconds}.")
    return lambda counts: counted_macs(shape, counts, samples)
