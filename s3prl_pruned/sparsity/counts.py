"""Weights, parameters and multiply-accumulates (MACs): one formula each, for integers and for expected counts."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, overload

import torch
from torch import Tensor

from s3prl_pruned.models.attention import padded_width
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import ATTENTION_MAPS, FEED_FORWARD_MAPS, CompactSpec, LayerSpec, Ranks
from s3prl_pruned.models.state_rule import StateHeads

Number: TypeAlias = int | float | Tensor
"""A count of a structure, or its expectation under gates: a scalar tensor, or a tensor (L,) of L layers."""
_MAPS = {"qk": ("q_proj", "k_proj"), "vo": ("v_proj", "out_proj"), "ffn": ("fc1", "fc2")}
"""For each kind of dimension, the linear maps between it and the residual stream."""


@dataclass
class LayerCounts:
    """Kept query/key, value/output and intermediate dimensions of a layer.

    Integers for a structure. Tensors for the expectation under gates, scalar or (L,) for L layers at once.
    """

    qk: Number
    vo: Number
    ffn: Number
    ranks: Ranks = field(default_factory=Ranks)
    heads: Number = 0
    """Kept heads. Weights do not depend on them, but MACs and time do."""
    products: Number = 0
    """Dimensions of the two products of attention over all heads, each head padded to the widest head of the layer."""

    @classmethod
    def of(cls, layer: LayerSpec) -> "LayerCounts":
        """Counts of one layer of a structure."""
        width = padded_width([len(head.qk) for head in layer.heads]) + padded_width(
            [len(head.vo) for head in layer.heads]
        )
        return cls(
            qk=sum(len(head.qk) for head in layer.heads),
            vo=sum(len(head.vo) for head in layer.heads),
            ffn=len(layer.ffn),
            ranks=layer.ranks,
            heads=len(layer.heads),
            products=len(layer.heads) * width,
        )


@dataclass
class EncoderCounts:
    """Kept dimensions of an encoder: integers for a structure, scalar tensors for the expectation under gates."""

    layers: list[LayerCounts]
    """One entry per layer, or a single entry with tensors (L,) for all layers."""
    channels: list[Number]
    """Channels of each layer of the CNN."""
    position_groups: Number
    """Groups of the positional convolution."""
    with_cnn: bool
    """Whether the CNN is pruned, and therefore counted in the sparsity."""
    with_positions: bool = False
    """Whether the positional convolution is pruned, and therefore counted."""

    @classmethod
    def of(cls, config: EncoderConfig, spec: CompactSpec) -> "EncoderCounts":
        """Counts of a structure."""
        return cls(
            layers=[LayerCounts.of(layer) for layer in spec.layers],
            channels=[len(kept) for kept in spec.channels_of(config)],
            position_groups=len(spec.groups_of(config)),
            with_cnn=spec.channels is not None,
            with_positions=spec.position_groups is not None,
        )

    @classmethod
    def dense(cls, config: EncoderConfig, *, with_cnn: bool, with_positions: bool = False) -> "EncoderCounts":
        """Counts of the dense model."""
        dense = cls.of(config, CompactSpec.dense(config))
        return replace(dense, with_cnn=with_cnn, with_positions=with_positions)


def linear_weights(embed_dim: int, size: Number, rank: int | None = None) -> Number:
    """Weights of a linear map between the residual stream and `size` dimensions, as one matrix or as two factors."""
    return embed_dim * size if rank is None else rank * (embed_dim + size)


def map_weights(embed_dim: int, counts: LayerCounts) -> dict[str, Number]:
    """Prunable weights of a layer by linear map, without biases."""
    sizes = {name: getattr(counts, kind) for kind, names in _MAPS.items() for name in names}
    return {name: linear_weights(embed_dim, size, getattr(counts.ranks, name)) for name, size in sizes.items()}


def layer_weights(
    embed_dim: int, counts: LayerCounts, names: tuple[str, ...] = ATTENTION_MAPS + FEED_FORWARD_MAPS
) -> Number:
    """Prunable weights of a layer (no biases): q, k, v, o and the two feed-forward matrices, or only the named ones."""
    weights = map_weights(embed_dim, counts)
    return sum(weights[name] for name in names)


def total(count: Number) -> Number:
    """Sum of a count over layers."""
    return count.sum() if isinstance(count, Tensor) and count.dim() else count


def cnn_weights(config: EncoderConfig, channels: Sequence[Number]) -> Number:
    """Weights of the convolutions and of the projection behind them, without biases.

    Each is a product of the channels of neighbouring layers, also in expectation, since their masks are independent.
    """
    convolutions = sum(
        before * here * kernel
        for before, here, (_, kernel, _) in zip(
            [config.in_channels, *channels[:-1]], channels, config.conv_layers, strict=True
        )
    )
    return convolutions + channels[-1] * config.embed_dim * config.has_projection


def position_weights(config: EncoderConfig, groups: Number) -> Number:
    """Weights of the positional convolution(s) with this number of groups, without biases and magnitudes."""
    if config.positions == "fixed":
        return 0
    width = config.embed_dim // config.pos_conv_groups
    return groups * (width * width * config.pos_conv_kernel * config.pos_conv_depth)


def weights(config: EncoderConfig, counts: EncoderCounts) -> Number:
    """Weight elements (no biases) of the prunable matrices of attention and feed-forward.

    If the CNN is pruned too, they include those of its convolutions and of the projection behind it; if the positional
    convolution is pruned, they include its weights.
    """
    kept = sum(total(layer_weights(config.embed_dim, layer)) for layer in counts.layers)
    if counts.with_cnn:
        kept = kept + cnn_weights(config, counts.channels)
    return kept + position_weights(config, counts.position_groups) if counts.with_positions else kept


def prunable_weights(config: EncoderConfig, spec: CompactSpec) -> int:
    """Weight elements of the prunable matrices that `spec` keeps; 84,934,656 for dense WavLM Base."""
    return int(weights(config, EncoderCounts.of(config, spec)))


def whole_weights(config: EncoderConfig, like: CompactSpec | EncoderCounts | None = None) -> int:
    """Number of weights of the dense model in the parts that are pruned.

    Args:
        config: the dense shape.
        like: decides whether CNN and positional convolution are pruned; None: neither.
    """
    counts = like if isinstance(like, EncoderCounts) else EncoderCounts.of(config, like or CompactSpec.dense(config))
    dense = EncoderCounts.dense(config, with_cnn=counts.with_cnn, with_positions=counts.with_positions)
    return int(weights(config, dense))


@overload
def sparsity(kept: float, config: EncoderConfig, like: CompactSpec | EncoderCounts | None = None) -> float: ...


@overload
def sparsity(kept: Number, config: EncoderConfig, like: CompactSpec | EncoderCounts | None = None) -> Number: ...


def sparsity(kept: Number, config: EncoderConfig, like: CompactSpec | EncoderCounts | None = None) -> Number:
    """1 - kept / all prunable weights of the dense model. The project's one definition of sparsity.

    Args:
        kept: result of `weights`.
        config: the dense shape.
        like: decides which parts both numbers include (`whole_weights`).
    """
    return 1 - kept / whole_weights(config, like)


def realised_sparsity(config: EncoderConfig, spec: CompactSpec) -> float:
    """Sparsity of a structure, in [0, 1]. CNN and positional convolution count if they are pruned."""
    return sparsity(prunable_weights(config, spec), config, spec)


def parameters(config: EncoderConfig, spec: CompactSpec) -> dict[str, int]:
    """Parameters by part, biases and norms included; they sum to `numel()` of the encoder."""
    dim, heads = config.embed_dim, config.num_heads
    channels = [len(kept) for kept in spec.channels_of(config)]
    normed = {"layer_norm": len(channels), "group_norm": 1, "none": 0}[config.extractor_mode]
    projection = channels[-1] * dim * config.has_projection
    cnn = int(cnn_weights(config, channels)) - projection
    cnn += sum(channels) * config.conv_bias + sum(2 * c for c in channels[:normed])
    groups = len(spec.groups_of(config))
    positions = int(position_weights(config, groups))
    if positions:  # weight normalisation has a magnitude per tap; data2vec's stack has none
        biases = groups * dim // config.pos_conv_groups
        positions += biases * config.pos_conv_depth + config.pos_conv_kernel * (config.pos_conv_depth == 1)
    parts = {
        "cnn": cnn,
        "projection": channels[-1] * (2 * config.projection_norm + config.channel_scale)
        + projection + dim * config.has_projection,
        "mask_embedding": dim,
        "positional_convolution": positions,
        "relative_position": config.num_buckets * heads * (config.relative_position and spec.has_attention),
        "attention": 0,
        "feed_forward": 0,
        "layer_norms": 2 * dim * (2 * config.num_layers + 1),
    }  # fmt: skip
    if config.states.heads is not None:
        parts["state_heads"] = _head_weights(config, config.states.heads, biases=True)
    for layer in spec.layers:
        counts = LayerCounts.of(layer)
        parts["attention"] += int(layer_weights(dim, counts, ATTENTION_MAPS))
        parts["attention"] += int((1 + config.key_bias) * counts.qk + counts.vo) + dim * layer.attention
        if config.gated_position and layer.heads:
            parts["attention"] += config.head_dim * 8 + 8 + len(layer.heads)
        parts["feed_forward"] += int(layer_weights(dim, counts, FEED_FORWARD_MAPS))
        parts["feed_forward"] += int(counts.ffn) + dim * layer.feed_forward
    return parts


def _head_weights(config: EncoderConfig, heads: StateHeads, *, biases: bool) -> int:
    """Weights of the linear maps on hidden states (`models/state_heads.py`)."""
    if heads.kind == "maps":
        return config.num_layers * heads.dim * (config.embed_dim + biases)
    inner = heads.number * heads.inner_dim
    return inner * (config.embed_dim + biases) + inner * heads.dim + heads.number * heads.dim * biases


def macs(config: EncoderConfig, spec: CompactSpec, num_samples: int) -> dict[str, int]:
    """Multiply-accumulates of a structure by part, for one utterance of `num_samples` samples (see `counted_macs`)."""
    return {part: int(work) for part, work in counted_macs(config, EncoderCounts.of(config, spec), num_samples).items()}


def counted_macs(config: EncoderConfig, counts: EncoderCounts, num_samples: int) -> dict[str, Number]:
    """Multiply-accumulates by part for one utterance: convolutions, linear maps and the two products of attention.

    The work of the reference path is counted: in the two products, heads are padded to the widest head of the layer.
    As usual, norms, activations, softmax and adding biases are not counted. Nor is the log-mel spectrum, which is not
    part of the network. Windows that are padded with silence count in full.
    """
    in_channels: Number = config.in_channels
    cnn: Number = 0
    steps = config.computed_steps(num_samples)
    for length, channels, (_, kernel, _) in zip(steps, counts.channels, config.conv_layers, strict=True):
        cnn += length * in_channels * channels * kernel
        in_channels = channels
    of_windows = [config.num_frames(window) for window in config.window_lengths(num_samples)]
    frames = sum(of_windows)
    dim = config.embed_dim
    parts: dict[str, Number] = {
        "cnn": cnn,
        "projection": frames * in_channels * dim * config.has_projection,
        # an even kernel computes one frame more than is kept
        "positional_convolution": (frames + 1 - config.pos_conv_kernel % 2)
        * position_weights(config, counts.position_groups),
        "attention": 0,
        "feed_forward": 0,
    }  # fmt: skip
    for layer, (queries, pairs) in zip(counts.layers, _layer_frames(config, counts, of_windows), strict=True):
        parts["attention"] += total(queries * layer_weights(dim, layer, ATTENTION_MAPS) + pairs * layer.products)
        if config.gated_position and config.relative_position:
            parts["attention"] += total(queries * layer.heads) * config.head_dim * 8
        parts["feed_forward"] += total(queries * layer_weights(dim, layer, FEED_FORWARD_MAPS))
    if config.states.heads is not None:
        parts["state_heads"] = frames * _head_weights(config, config.states.heads, biases=False)
    return parts


def _layer_frames(config: EncoderConfig, counts: EncoderCounts, of_windows: list[int]) -> list[tuple[Number, Number]]:
    """Frames, and pairs of frames that attend to each other, for each entry of `counts.layers`.

    Args:
        config: the dense shape.
        counts: of each layer, or of all in one entry of tensors (L,).
        of_windows: frames of each window at the full rate.
    """
    of_layers = [[config.frames_of_layer(i, frames) for frames in of_windows] for i in range(config.num_layers)]
    queries, pairs = [sum(frames) for frames in of_layers], [sum(n * n for n in frames) for frames in of_layers]
    if len(counts.layers) == config.num_layers:
        return list(zip(queries, pairs, strict=True))
    if config.time_reduction is None:
        return [(queries[0], pairs[0])]
    qk = counts.layers[0].qk
    assert isinstance(qk, Tensor), "one entry is of all layers"
    lower = torch.arange(config.num_layers, device=qk.device) >= config.time_reduction.after

    def of_all_layers(numbers: list[int]) -> Tensor:  # filled on the device: copying the list would wait for a GPU
        return torch.where(lower, torch.full_like(qk, numbers[-1]), torch.full_like(qk, numbers[0]))

    return [(of_all_layers(queries), of_all_layers(pairs))]
