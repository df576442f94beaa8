"""Weights, parameters and multiply-accumulates (MACs). One formula each, for integers and expected tensors alike."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, overload

from torch import Tensor

from s3prl_pruned.models.attention import padded_width
from s3prl_pruned.models.spec import (
    ATTENTION_MAPS,
    FEED_FORWARD_MAPS,
    CompactSpec,
    EncoderConfig,
    LayerSpec,
    Ranks,
    StateHeads,
)

Number: TypeAlias = int | float | Tensor
"""A count of a structure, or the expected count under gates: a scalar tensor, or one (L,) of L layers."""
_MAPS = {"qk": ("q_proj", "k_proj"), "vo": ("v_proj", "out_proj"), "ffn": ("fc1", "fc2")}
"""The linear maps that a kind of dimension is a side of; the other side is the residual stream."""


@dataclass
class LayerCounts:
    """Query/key dimensions, value/output dimensions and intermediate dimensions of a layer that stay.

    Integers for a structure; for the expectation under gates tensors, scalar or (L,) of L layers at once.
    """

    qk: Number
    vo: Number
    ffn: Number
    ranks: Ranks = field(default_factory=Ranks)
    heads: Number = 0
    """Heads that stay; weights do not depend on them, MACs and time do."""
    products: Number = 0
    """Dimensions of attention's two products over all heads, each head padded to the layer's widest."""

    @classmethod
    def of(cls, layer: LayerSpec) -> "LayerCounts":
        """What a structure has."""
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
    """What stays of an encoder: integers for a structure, scalar tensors for the expectation under gates."""

    layers: list[LayerCounts]
    """Of each layer, or one of all of them."""
    channels: list[Number]
    """Of each layer of the CNN."""
    position_groups: Number
    """Of the positional convolution."""
    with_cnn: bool
    """Whether the CNN is pruned, and so counted in the sparsity."""
    with_positions: bool = False
    """Whether the positional convolution is."""

    @classmethod
    def of(cls, config: EncoderConfig, spec: CompactSpec) -> "EncoderCounts":
        """What a structure has."""
        return cls(
            layers=[LayerCounts.of(layer) for layer in spec.layers],
            channels=[len(kept) for kept in spec.channels_of(config)],
            position_groups=len(spec.groups_of(config)),
            with_cnn=spec.channels is not None,
            with_positions=spec.position_groups is not None,
        )

    @classmethod
    def dense(cls, config: EncoderConfig, *, with_cnn: bool, with_positions: bool = False) -> "EncoderCounts":
        """What the dense model has."""
        dense = cls.of(config, CompactSpec.dense(config))
        return replace(dense, with_cnn=with_cnn, with_positions=with_positions)


def linear_weights(embed_dim: int, size: Number, rank: int | None = None) -> Number:
    """Weights of a linear map between the residual stream and `size` dimensions, held whole or as two factors."""
    return embed_dim * size if rank is None else rank * (embed_dim + size)


def map_weights(embed_dim: int, counts: LayerCounts) -> dict[str, Number]:
    """Prunable weights of a layer, without biases, by linear map."""
    sizes = {name: getattr(counts, kind) for kind, names in _MAPS.items() for name in names}
    return {name: linear_weights(embed_dim, size, getattr(counts.ranks, name)) for name, size in sizes.items()}


def layer_weights(
    embed_dim: int, counts: LayerCounts, names: tuple[str, ...] = ATTENTION_MAPS + FEED_FORWARD_MAPS
) -> Number:
    """Prunable weights of a layer, without biases: q, k, v, o and the two feed-forward matrices, or the named ones."""
    weights = map_weights(embed_dim, counts)
    return sum(weights[name] for name in names)


def total(count: Number) -> Number:
    """Of all layers that a count is of."""
    return count.sum() if isinstance(count, Tensor) and count.dim() else count


def cnn_weights(config: EncoderConfig, channels: Sequence[Number]) -> Number:
    """Weights of the convolutions and of the projection that reads them, without biases.

    They are products of neighbouring layers' channels, in expectation too, since layers' masks are drawn independently.
    """
    convolutions = sum(
        before * here * kernel
        for before, here, (_, kernel, _) in zip(
            [config.in_channels, *channels[:-1]], channels, config.conv_layers, strict=True
        )
    )
    return convolutions + channels[-1] * config.embed_dim * config.has_projection


def position_weights(config: EncoderConfig, groups: Number) -> Number:
    """Weights of the positional convolution(s) of so many groups, without biases and magnitudes."""
    if config.positions == "fixed":
        return 0
    width = config.embed_dim // config.pos_conv_groups
    return groups * (width * width * config.pos_conv_kernel * config.pos_conv_depth)


def weights(config: EncoderConfig, counts: EncoderCounts) -> Number:
    """Weight elements (no biases) of the prunable matrices: the attention's and feed-forward's.

    Where the CNN is pruned too, those of its convolutions and of the projection behind it are among them; and those of
    the positional convolution, where that is.
    """
    kept = sum(total(layer_weights(config.embed_dim, layer)) for layer in counts.layers)
    if counts.with_cnn:
        kept = kept + cnn_weights(config, counts.channels)
    return kept + position_weights(config, counts.position_groups) if counts.with_positions else kept


def prunable_weights(config: EncoderConfig, spec: CompactSpec) -> int:
    """Weight elements of the prunable matrices that `spec` keeps; 84,934,656 for dense WavLM Base."""
    return int(weights(config, EncoderCounts.of(config, spec)))


def whole_weights(config: EncoderConfig, like: CompactSpec | EncoderCounts | None = None) -> int:
    """Weight elements that the dense model has of the parts that are pruned.

    Args:
        config: the dense shape.
        like: says whether the CNN and the positional convolution are; None: neither.
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
        kept: what `weights` gave.
        config: the dense shape.
        like: of which parts both are (`whole_weights`).
    """
    return 1 - kept / whole_weights(config, like)


def realised_sparsity(config: EncoderConfig, spec: CompactSpec) -> float:
    """Sparsity of a structure, in [0, 1]; CNN and positional convolution count where they are pruned."""
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
    """Weights of the maps behind hidden states (`models/state_heads.py`)."""
    if heads.kind == "maps":
        return config.num_layers * heads.dim * (config.embed_dim + biases)
    inner = heads.number * heads.inner_dim
    return inner * (config.embed_dim + biases) + inner * heads.dim + heads.number * heads.dim * biases


def macs(config: EncoderConfig, spec: CompactSpec, num_samples: int) -> dict[str, int]:
    """Multiply-accumulates of a structure by part, for one utterance of `num_samples` samples: `counted_macs`."""
    return {part: int(work) for part, work in counted_macs(config, EncoderCounts.of(config, spec), num_samples).items()}


def counted_macs(config: EncoderConfig, counts: EncoderCounts, num_samples: int) -> dict[str, Number]:
    """Multiply-accumulates by part for one utterance: convolutions, linears and the two products of attention.

    What the reference path runs is counted: heads of different sizes are padded to the layer's widest in the two
    products. Norms, activations, softmax and the bias' additions are not counted, as usual, nor is a log-mel spectrum,
    which is no part of a network. Windows padded with silence are counted as a whole.
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
        # an even kernel makes one frame more than is kept
        "positional_convolution": (frames + 1 - config.pos_conv_kernel % 2)
        * position_weights(config, counts.position_groups),
        "attention": 0,
        "feed_forward": 0,
    }  # fmt: skip
    for layer in counts.layers:
        parts["attention"] += total(
            frames * layer_weights(dim, layer, ATTENTION_MAPS) + sum(n * n for n in of_windows) * layer.products
        )
        if config.gated_position and config.relative_position:
            parts["attention"] += frames * total(layer.heads) * config.head_dim * 8
        parts["feed_forward"] += frames * total(layer_weights(dim, layer, FEED_FORWARD_MAPS))
    if config.states.heads is not None:
        parts["state_heads"] = frames * _head_weights(config, config.states.heads, biases=False)
    return parts
