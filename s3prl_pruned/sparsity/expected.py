"""The expected structure under gates, and how far given gates can go."""

import math

import torch
from torch import Tensor

from s3prl_pruned.gates.attach import GateConfig, GateSet
from s3prl_pruned.gates.hard_concrete import keep_probability
from s3prl_pruned.models.spec import EncoderConfig, LayerSpec
from s3prl_pruned.sparsity.counts import LayerCounts, layer_weights, sparsity


def expected_counts(layer: LayerSpec, probabilities: dict[str, Tensor]) -> LayerCounts:
    """Expected dimensions of a layer: products over the scales that can remove a dimension (Xia et al. 2022, CoFi).

    Args:
        layer: the structure that the gates are attached to.
        probabilities: P(z > 0) per slot name (`z_mha` (1,), `z_qk` (sum of qk dims,), ...); an absent slot is 1.

    Returns:
        LayerCounts of scalar tensors (of ints where no gate acts).
    """

    def dims(per_head: list[int], name: str) -> Tensor | int:
        kept, head = probabilities.get(name, 1), probabilities.get("z_head")
        if head is not None:
            repeats = torch.tensor(per_head, device=head.device)
            kept = kept * head.repeat_interleave(repeats, output_size=sum(per_head))
        return _total(kept, sum(per_head)) * _total(probabilities.get("z_mha", 1), 1)

    ffn = _total(probabilities.get("z_int", 1), len(layer.ffn))
    return LayerCounts(
        qk=dims([len(head.qk) for head in layer.heads], "z_qk"),
        vo=dims([len(head.vo) for head in layer.heads], "z_vo"),
        ffn=ffn * _total(probabilities.get("z_ffn", 1), 1),
    )


def _total(probability: Tensor | int, num: int) -> Tensor | int:
    """Expected number of `num` things that stay; the probability 1 where no gate acts on them."""
    return probability.sum() if isinstance(probability, Tensor) else probability * num


def expected_sparsity(gates: GateSet, config: EncoderConfig) -> Tensor:
    """Expected sparsity of an encoder under its gates: a scalar in [0, 1) with a gradient to every log_alpha."""
    kept = sum(
        layer_weights(config.embed_dim, expected_counts(layer, gates.keep_probabilities(i)))
        for i, layer in enumerate(gates.spec.layers)
    )
    return sparsity(kept, config)


def reachable_sparsity(config: EncoderConfig, gate_config: GateConfig) -> float:
    """The largest expected sparsity of a dense model that gates of these kinds reach, all at their lower limit."""
    lowest = float(keep_probability(torch.tensor(-gate_config.max_log_alpha)))

    def kept(*kinds: str) -> float:
        return math.prod(lowest for kind in kinds if kind in gate_config.kinds)

    dims = config.num_heads * config.head_dim
    counts = LayerCounts(
        qk=dims * kept("mha", "qk", "head"), vo=dims * kept("mha", "vo", "head"), ffn=config.ffn_dim * kept("ffn", "int")
    )
    return sparsity(config.num_layers * layer_weights(config.embed_dim, counts), config)
