"""The expected structure under gates, and how far given gates can go."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from s3prl_pruned.gates.attach import GateConfig
from s3prl_pruned.gates.self_pinching import SelfPinchingConfig
from s3prl_pruned.models.masks import Slot, masks_of_layer
from s3prl_pruned.models.spec import CompactSpec, EncoderConfig, LayerSpec
from s3prl_pruned.sparsity.counts import EncoderCounts, LayerCounts, Number, sparsity, weights


class Counted(Protocol):
    """Units whose number is counted: each stays with a probability (`GateSet`), or stays or not (a step's draw)."""

    @property
    def spec(self) -> CompactSpec:
        """Of the encoder that they are in."""
        ...

    def keep_probabilities(self) -> Mapping[Slot, Tensor]:
        """(n,) by slot."""
        ...


def expected_counts(layer: LayerSpec, probabilities: dict[str, Tensor]) -> LayerCounts:
    """Expected dimensions of a layer: products over the scales that can remove a dimension (Xia et al. 2022, CoFi).

    Args:
        layer: the structure that the gates are attached to.
        probabilities: P(z > 0) per slot name (`z_mha` (1,), `z_qk` (sum of qk dims,), ...); an absent slot is 1. Of
            single weights, under `attention_weights` and `ffn_weights`; they count as the share of the dimensions that
            they are.

    Returns:
        LayerCounts of scalar tensors (of ints where no gate acts).
    """

    def dims(per_head: list[int], name: str) -> Number:
        kept, head = probabilities.get(name, 1), probabilities.get("z_head")
        if head is not None:
            repeats = torch.tensor(per_head, device=head.device)
            kept = kept * head.repeat_interleave(repeats, output_size=sum(per_head))
        return _total(kept, sum(per_head)) * _total(probabilities.get("z_mha", 1), 1) * share("attention_weights")

    def share(kind: str) -> Number:
        return probabilities[kind].mean() if kind in probabilities else 1

    ffn = _total(probabilities.get("z_int", 1), len(layer.ffn))
    return LayerCounts(
        qk=dims([len(head.qk) for head in layer.heads], "z_qk"),
        vo=dims([len(head.vo) for head in layer.heads], "z_vo"),
        ffn=ffn * _total(probabilities.get("z_ffn", 1), 1) * share("ffn_weights"),
    )


def _total(probability: Number, num: int) -> Number:
    """Expected number of `num` things that stay; the probability 1 where no gate acts on them."""
    return probability.sum() if isinstance(probability, Tensor) else probability * num


def expected_heads(layer: LayerSpec, probabilities: dict[str, Tensor]) -> tuple[Number, Number]:
    """Expected heads of a layer, and expected dimensions of attention's products, of each head padded to the widest.

    A head lives while its own mask, its attention's and any of its value dimensions do; it is as wide as expected of
    its dimensions. The widest is that of the largest expectation, which is exact where every probability is 0 or 1.

    Args:
        layer: as `expected_counts`.
        probabilities: as `expected_counts`.

    Returns:
        `LayerCounts.heads` and `LayerCounts.products`.
    """
    if not layer.heads or not probabilities:
        counts = LayerCounts.of(layer)
        return counts.heads, counts.products
    device = next(iter(probabilities.values())).device

    def by_head(sizes: list[int], name: str) -> Tensor:  # (heads, dimensions of the widest), 0 where one has fewer
        kept = probabilities.get(name)
        kept = torch.ones(sum(sizes), device=device) if kept is None else kept
        return pad_sequence(kept.split(sizes), batch_first=True)

    qk, vo = (
        by_head([len(head.qk) for head in layer.heads], "z_qk"),
        by_head([len(head.vo) for head in layer.heads], "z_vo"),
    )
    alive = (1 - (1 - vo).prod(1)) * probabilities.get("z_head", 1)
    widths = [(alive * kept.sum(1)).max().clamp(min=1) for kept in (qk, vo)]
    heads = alive.sum() * _total(probabilities.get("z_mha", 1), 1)
    return heads, heads * (widths[0] + widths[1])


def expected_encoder(gates: Counted, config: EncoderConfig, *, heads: bool = False) -> EncoderCounts:
    """Expected counts of a whole encoder under its gates, with a gradient to every log_alpha.

    Args:
        gates: `GateSet`, or the `PinchedDraw` of a step.
        config: the encoder's dense shape.
        heads: whether heads and products are counted too; sparsity does not need them, MACs and time do.
    """
    probabilities = gates.keep_probabilities()
    layers = []
    for i, layer in enumerate(gates.spec.layers):
        of_layer = masks_of_layer(probabilities, i)
        counts = expected_counts(layer, of_layer)
        if heads:
            counts.heads, counts.products = expected_heads(layer, of_layer)
        layers.append(counts)
    channels = {i: kept.sum() for (i, name), kept in probabilities.items() if name == "z_conv"}
    whole = [len(kept) for kept in gates.spec.channels_of(config)]
    return EncoderCounts(
        layers=layers,
        channels=[channels.get(i, size) for i, size in enumerate(whole)],
        with_cnn=bool(channels) or gates.spec.channels is not None,
    )


def expected_sparsity(gates: Counted, config: EncoderConfig) -> Tensor:
    """Expected sparsity of an encoder under its gates: a scalar in [0, 1) with a gradient to every log_alpha."""
    counts = expected_encoder(gates, config)
    return torch.as_tensor(sparsity(weights(config, counts), config, with_cnn=counts.with_cnn))


def reachable_sparsity(
    config: EncoderConfig, gate_config: GateConfig | SelfPinchingConfig, spec: CompactSpec | None = None
) -> float:
    """The largest expected sparsity that gates of these kinds reach, all at their lower limit.

    Args:
        config: the encoder's dense shape.
        gate_config: which gates.
        spec: what the encoder has left; None is everything.
    """
    with torch.no_grad():
        return float(expected_sparsity(gate_config.closed(spec or CompactSpec.dense(config), config), config))
