"""Select the units to prune: the weakest heads or rows, until a number of weights is removed."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from s3prl_pruned.models.linear import LowRankLinear
from s3prl_pruned.models.spec import LayerSpec
from s3prl_pruned.sparsity.counts import LayerCounts, layer_weights


def weakest(scores: list[Tensor], costs: list[list[int]], wanted: float, *, even: bool, keep: int) -> list[Tensor]:
    """Remove the units of the smallest scores until the number of removed weights is closest to `wanted`.

    Args:
        scores: per layer, one for each unit (n,); -inf for units that are removed already, which stay removed.
        costs: per layer, the number of weights of each unit.
        wanted: number of weights to remove in all, including those of units removed before.
        even: remove equally many units from each layer as far as possible; else the weakest of all layers.
        keep: number of units that every layer keeps, those of the largest scores.

    Returns:
        Per layer a bool mask (n,): True for units that are kept.
    """
    candidates = []
    for layer, of_layer in enumerate(scores):
        order = of_layer.argsort(stable=True).tolist()
        for rank, unit in enumerate(order[: max(0, len(order) - keep)]):
            score = float(of_layer[unit])
            candidates.append(((rank, score) if even else (score,), layer, unit))
    candidates.sort(key=lambda candidate: candidate[0])
    gone, chosen = 0, 0
    for _, layer, unit in candidates:
        cost = costs[layer][unit]
        if scores[layer][unit] != -torch.inf and abs(gone + cost - wanted) > abs(gone - wanted):
            break
        gone, chosen = gone + cost, chosen + 1
    alive = [torch.ones(len(of_layer), dtype=torch.bool) for of_layer in scores]
    for _, layer, unit in candidates[:chosen]:
        alive[layer][unit] = False
    return alive


def reachable(costs: list[list[int]], *, keep: int) -> int:
    """The most weights that `weakest` can remove; where a layer's costs differ, its most expensive units are kept."""
    return sum(sum(sorted(of_layer)[: max(0, len(of_layer) - keep)]) for of_layer in costs)


def head_costs(layer: LayerSpec, embed_dim: int) -> list[int]:
    """Number of weights removed with each head of a layer."""
    counts = LayerCounts.of(layer)
    whole = int(layer_weights(embed_dim, counts))
    without = [replace(counts, qk=counts.qk - len(head.qk), vo=counts.vo - len(head.vo)) for head in layer.heads]
    return [whole - int(layer_weights(embed_dim, rest)) for rest in without]


def row_costs(layer: LayerSpec, embed_dim: int) -> list[int]:
    """Number of weights removed with each intermediate dimension of a layer."""
    counts = LayerCounts.of(layer)
    one = layer_weights(embed_dim, counts) - layer_weights(embed_dim, replace(counts, ffn=counts.ffn - 1))
    return [int(one)] * len(layer.ffn)


def matrix(module: nn.Linear | LowRankLinear) -> Tensor:
    """The weights of a linear map, (out, in); for two factors, their product."""
    return module.up.weight @ module.down.weight if isinstance(module, LowRankLinear) else module.weight
