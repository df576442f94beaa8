"""The expected structure under gates, and the largest sparsity that gates can reach.

All layers are counted at once: the probabilities are gathered into tables of (layer, head, dimension). This takes few
operations for any number of gates, and never waits for a value from a GPU.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from s3prl_pruned.gates.attach import GateConfig
from s3prl_pruned.gates.self_pinching import SelfPinchingConfig
from s3prl_pruned.models.masks import Masks, Slot, SlotTable
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.counts import EncoderCounts, LayerCounts, Number, sparsity, weights


class Counted(Protocol):
    """Gates whose kept units are counted: each is kept with a probability (`GateSet`), or is kept or not (one draw)."""

    @property
    def spec(self) -> CompactSpec:
        """Structure of the encoder that the gates are attached to."""
        ...

    def keep_probabilities(self) -> Masks:
        """Probabilities (n,) by slot."""
        ...


@dataclass(frozen=True)
class _Laid:
    """Probabilities of the units of all layers; 0 where a layer has fewer units than another, 1 where there is no gate.

    L layers, H heads, Q query/key and V value/output dimensions per head, F intermediate dimensions: H, Q, V and F are
    the largest number in any layer or head, and at least 1.
    """

    qk: Tensor
    """(L, H, Q)."""
    vo: Tensor
    """(L, H, V)."""
    head: Tensor
    """(L, H)."""
    int: Tensor
    """(L, F)."""
    mha: Tensor
    """(L,)."""
    ffn: Tensor
    """(L,)."""


_Places = tuple[Tensor, dict[str, tuple[int, ...]]]
"""Index of each entry of `_Laid`'s tables in one flat vector, and the shapes of the tables."""


def _lay_out(spec: CompactSpec, probabilities: Masks) -> _Laid:
    flat = probabilities.flat
    places, shapes = _places(_ById(spec), tuple(probabilities.table.sizes.items()), flat.device)
    numbers = torch.cat((flat, _zero_and_one(flat.device, flat.dtype))).index_select(0, places)
    parts = numbers.split([torch.Size(shape).numel() for shape in shapes.values()])
    return _Laid(**{name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)})


class _ById:
    """Wrapper that compares a structure by identity, so that its thousands of indices are not compared at each step."""

    def __init__(self, spec: CompactSpec):
        self.spec = spec

    def __hash__(self) -> int:
        return id(self.spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and self.spec is other.spec


@lru_cache(maxsize=8)
def _places(structure: _ById, sizes: tuple[tuple[Slot, int], ...], device: torch.device) -> _Places:
    table, layers = SlotTable(dict(sizes)), structure.spec.layers
    slices, total = table.slices(), table.total
    nothing, surely = total, total + 1  # indices of the appended 0 and 1

    def units(layer: int, kind: str, count: int) -> list[int]:
        part = slices.get((layer, f"z_{kind}"))
        return [surely] * count if part is None else list(range(part.start, part.stop))

    def table_of(rows: list[list[int]], width: int) -> list[int]:
        return [place for row in rows for place in (*row, *[nothing] * (width - len(row)))]

    heads = max([1, *(len(layer.heads) for layer in layers)])
    laid: list[list[int]] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for kind in ("qk", "vo"):
        rows: list[list[int]] = []
        for i, layer in enumerate(layers):
            of_heads = [len(getattr(head, kind)) for head in layer.heads]
            of_layer = iter(units(i, kind, sum(of_heads)))
            rows += [[next(of_layer) for _ in range(size)] for size in of_heads] + [[]] * (heads - len(of_heads))
        width = max([1, *map(len, rows)])
        laid.append(table_of(rows, width))
        shapes[kind] = (len(layers), heads, width)
    for kind in ("head", "int"):
        rows = [units(i, kind, layer.mask_sizes[kind]) for i, layer in enumerate(layers)]
        width = heads if kind == "head" else max([1, *map(len, rows)])
        laid.append(table_of(rows, width))
        shapes[kind] = (len(layers), width)
    for kind in ("mha", "ffn"):
        laid.append([units(i, kind, 1)[0] for i in range(len(layers))])
        shapes[kind] = (len(layers),)
    return torch.tensor([place for part in laid for place in part], device=device), shapes


@lru_cache(maxsize=8)
def _zero_and_one(device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # the cached tensor is used in training too
        return torch.tensor([0.0, 1.0], device=device, dtype=dtype)


def expected_layers(spec: CompactSpec, probabilities: Masks, *, heads: bool = False) -> LayerCounts:
    """Expected dimensions of all layers: products over the masks that can remove a dimension (Xia et al. 2022, CoFi).

    A head is kept if its own mask, the mask of its attention and at least one of its value dimensions are kept. Its
    width is the expected number of its dimensions. The widest head is taken to be the one with the largest expectation;
    this is exact if every probability is 0 or 1.

    Args:
        spec: the structure that the gates are attached to.
        probabilities: P(z > 0) by slot (`z_mha` (1,), `z_qk` (sum of qk dims,), ...); 1 for a missing slot. Those of
            single weights are under `attention_weights` and `ffn_weights`; they count as a share of the dimensions.
        heads: whether `heads` and `products` are counted too.

    Returns:
        Tensors (L,).
    """
    laid = _lay_out(spec, probabilities)
    by_head = any(name == "z_head" for _, name in probabilities)
    attention = laid.mha * _shares(spec, probabilities, "attention_weights")

    def dims(kept: Tensor) -> Tensor:
        return (kept * laid.head[:, :, None] if by_head else kept).sum((1, 2)) * attention

    counts = LayerCounts(
        qk=dims(laid.qk),
        vo=dims(laid.vo),
        ffn=laid.int.sum(1) * laid.ffn * _shares(spec, probabilities, "ffn_weights"),
    )
    if heads:
        alive = (1 - _product(1 - laid.vo)) * laid.head  # (L, H)
        widths = [(alive * kept.sum(2)).amax(1).clamp(min=1) for kept in (laid.qk, laid.vo)]
        counts.heads = alive.sum(1) * laid.mha
        counts.products = counts.heads * (widths[0] + widths[1])
    return counts


def _shares(spec: CompactSpec, probabilities: Masks, kind: str) -> Number:
    """Kept share (L,) of the single weights of a kind; 1 if none are masked."""
    if not any(name == kind for _, name in probabilities):
        return 1
    whole = torch.ones((), device=probabilities.flat.device)
    layers = range(len(spec.layers))
    return torch.stack([probabilities[i, kind].mean() if (i, kind) in probabilities else whole for i in layers])


def _product(x: Tensor) -> Tensor:
    """Product over the last dimension, two by two: the backward pass of `prod` would wait for a value from the GPU."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        x = torch.cat((x[..., :half] * x[..., half : 2 * half], x[..., 2 * half :]), -1)
    return x.squeeze(-1)


def expected_encoder(gates: Counted, config: EncoderConfig, *, heads: bool = False) -> EncoderCounts:
    """Expected counts of a whole encoder under gates, with a gradient to every log_alpha.

    Args:
        gates: a `GateSet`, or the `PinchedDraw` of a step.
        config: the dense shape of the encoder.
        heads: whether heads and products are counted too; MACs and time need them, sparsity does not.
    """
    probabilities, spec = gates.keep_probabilities(), gates.spec
    channels = {i: kept.sum() for (i, name), kept in probabilities.items() if name == "z_conv"}
    whole = [len(kept) for kept in spec.channels_of(config)]
    groups = probabilities.get((0, "z_pos"))
    return EncoderCounts(
        layers=_by_ranks(expected_layers(spec, probabilities, heads=heads), spec),
        channels=[channels.get(i, size) for i, size in enumerate(whole)],
        position_groups=len(spec.groups_of(config)) if groups is None else groups.sum(),
        with_cnn=bool(channels) or spec.channels is not None,
        with_positions=groups is not None or spec.position_groups is not None,
    )


def _by_ranks(counts: LayerCounts, spec: CompactSpec) -> list[LayerCounts]:
    """One entry for all layers if they have the same ranks, else one entry per layer."""
    ranks = [layer.ranks for layer in spec.layers]
    if all(each == ranks[0] for each in ranks):
        counts.ranks = ranks[0]
        return [counts]

    def at(i: int, count: Number) -> Number:
        return count[i] if isinstance(count, Tensor) else count

    return [
        LayerCounts(
            qk=at(i, counts.qk), vo=at(i, counts.vo), ffn=at(i, counts.ffn), ranks=each,
            heads=at(i, counts.heads), products=at(i, counts.products),
        )
        for i, each in enumerate(ranks)
    ]  # fmt: skip


def expected_sparsity(gates: Counted, config: EncoderConfig) -> Tensor:
    """Expected sparsity of an encoder under gates: a scalar in [0, 1) with a gradient to every log_alpha."""
    counts = expected_encoder(gates, config)
    return torch.as_tensor(sparsity(weights(config, counts), config, counts))


def reachable_sparsity(
    config: EncoderConfig, gate_config: GateConfig | SelfPinchingConfig, spec: CompactSpec | None = None
) -> float:
    """The largest expected sparsity that gates of these kinds can reach, when all are at their lower limit.

    Args:
        config: the dense shape of the encoder.
        gate_config: kinds and limits of the gates.
        spec: current structure of the encoder; None for a dense one.
    """
    with torch.no_grad():
        return float(expected_sparsity(gate_config.closed(spec or CompactSpec.dense(config), config), config))
