"""What pruning is driven to a target of: sparsity, MACs or time, each as the share of the dense model that goes; and the CNN's own."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.gates.attach import GateConfig, GateSet
from s3prl_pruned.gates.self_pinching import PinchedDraw
from s3prl_pruned.models.spec import CompactSpec, EncoderConfig
from s3prl_pruned.sparsity.counts import EncoderCounts, Number, counted_macs, sparsity, weights
from s3prl_pruned.sparsity.expected import expected_encoder
from s3prl_pruned.sparsity.lagrangian import SparsityConfig
from s3prl_pruned.sparsity.latency import LatencyTable, read_latency_table


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One of these, of encoders of one dense shape."""

    name: str
    """`sparsity`, `macs`, `speedup` or `cnn`; logs hold `target_<name>` and `expected_<name>`."""
    shape: EncoderConfig
    """The dense shape."""
    reduction: Callable[[EncoderCounts], Number]
    """The share of the dense model that goes where `counts` stay, in [0, 1); `cnn`: of the dense CNN."""
    table: LatencyTable | None = None
    """Whose times `speedup` means, and `cnn` where there is one."""

    def of(self, spec: CompactSpec) -> float:
        """The share that goes of a structure."""
        return float(self.reduction(EncoderCounts.of(self.shape, spec)))

    def expected(self, gates: GateSet | PinchedDraw) -> Tensor:
        """The share that is expected to go under gates, a scalar with a gradient to every log_alpha (`cnn`: to the channels')."""
        return self.reduction(expected_encoder(gates, self.shape, heads=self.name != "sparsity"))

    def reachable(self, gates: GateConfig, spec: CompactSpec) -> float:
        """The largest expected share that gates of these kinds reach, all at their lower limit.

        Args:
            spec: what the encoder has left.
        """
        with torch.no_grad():
            return float(self.expected(GateSet(spec, gates.closed(), self.shape)))

    def shown(self, reduction: float) -> float:
        """A share as users state it: itself, or a speed-up."""
        return 1 / (1 - reduction) if self.name == "speedup" else reduction


_FIELDS = {"params": "target_sparsity", "macs": "target_macs", "speedup": "target_speedup"}


def chosen_target(text: str) -> tuple[str, float]:
    """Which field of `SparsityConfig` a text such as `params=0.8`, `macs=0.7` or `speedup=2.5` sets, and to what.

    Raises:
        UserError: it is none of these.
    """
    name, _, value = text.partition("=")
    try:
        return _FIELDS[name.strip()], float(value)
    except (KeyError, ValueError):
        raise UserError(f"`--target` must be params=0.8, macs=0.7 or speedup=2.5 (or another number), but is {text!r}.") from None


def measure_of(config: SparsityConfig, shape: EncoderConfig, table: LatencyTable | None = None) -> Measure:
    """What `config` sets the target of.

    Args:
        config: target.
        shape: the encoder's dense shape.
        table: in place of the file that `config.latency_table` names.

    Raises:
        UserError: the table cannot be read, or is of another shape; an utterance too short for a frame.
    """
    dense = EncoderCounts.dense(shape, with_cnn=False)
    if config.target_speedup is not None:
        table = _table_of(config, shape, table)
        whole = table.time(dense)
        return Measure(name="speedup", shape=shape, reduction=lambda counts: 1 - table.time(counts) / whole, table=table)
    if config.target_macs is not None:
        macs = _macs_of(config, shape)
        whole = sum(macs(dense).values())
        return Measure(name="macs", shape=shape, reduction=lambda counts: 1 - sum(macs(counts).values()) / whole)
    return Measure(
        name="sparsity", shape=shape, reduction=lambda counts: sparsity(weights(shape, counts), shape, with_cnn=counts.with_cnn)
    )


def cnn_measure_of(config: SparsityConfig, shape: EncoderConfig, table: LatencyTable | None = None) -> Measure | None:
    """What `config.target_cnn` is the target of; None where there is none.

    Args and errors: as `measure_of`.
    """
    if config.target_cnn is None:
        return None
    dense = EncoderCounts.dense(shape, with_cnn=True)
    table = _table_of(config, shape, table)
    if table is not None:
        seconds = table.cnn_time(dense.channels)
        return Measure(name="cnn", shape=shape, reduction=lambda counts: 1 - table.cnn_time(counts.channels) / seconds, table=table)
    macs = _macs_of(config, shape)
    work = macs(dense)["cnn"]
    return Measure(name="cnn", shape=shape, reduction=lambda counts: 1 - macs(counts)["cnn"] / work)


def _table_of(config: SparsityConfig, shape: EncoderConfig, table: LatencyTable | None) -> LatencyTable | None:
    """The table in use, of this shape; None where none is named."""
    if table is None and config.latency_table is not None:
        table = read_latency_table(config.latency_table)
    if table is not None:
        table.check(shape)
    return table


def _macs_of(config: SparsityConfig, shape: EncoderConfig) -> Callable[[EncoderCounts], dict[str, Number]]:
    samples = round(SAMPLE_RATE * config.utterance_seconds)
    if not shape.num_frames(samples):
        raise UserError(f"`utterance_seconds` must last a frame, but is {config.utterance_seconds}.")
    return lambda counts: counted_macs(shape, counts, samples)
