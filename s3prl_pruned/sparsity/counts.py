"""Weights, parameters and multiply-accumulates (MACs). One formula each, for integers and expected tensors alike."""

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from s3prl_pruned.models.attention import padded_width
from s3prl_pruned.models.spec import ATTENTION_MAPS, FEED_FORWARD_MAPS, CompactSpec, EncoderConfig, LayerSpec, Ranks

Number = TypeVar("Number", int, float, Tensor)
_MAPS = {"qk": ("q_proj", "k_proj"), "vo": ("v_proj", "out_proj"), "ffn": ("fc1", "fc2")}
"""The linear maps that a kind of dimension is a side of; the other side is the residual stream."""


@dataclass
class LayerCounts:
    """Query/key dimensions, value/output dimensions and intermediate dimensions of a layer that stay.

    Integers for a structure; scalar tensors for the expectation under gates.
    """

    qk: int | Tensor
    vo: int | Tensor
    ffn: int | Tensor
    ranks: Ranks = Ranks()

    @classmethod
    def of(cls, layer: LayerSpec) -> "LayerCounts":
        return cls(
            qk=sum(len(head.qk) for head in layer.heads),
            vo=sum(len(head.vo) for head in layer.heads),
            ffn=len(layer.ffn),
            ranks=layer.ranks,
        )


def linear_weights(embed_dim: int, size: int | Tensor, rank: int | None = None) -> int | Tensor:
    """Weights of a linear map between the residual stream and `size` dimensions, held whole or as two factors."""
    return embed_dim * size if rank is None else rank * (embed_dim + size)


def map_weights(embed_dim: int, counts: LayerCounts) -> dict[str, int | Tensor]:
    """Prunable weights of a layer, without biases, by linear map."""
    sizes = {name: getattr(counts, kind) for kind, names in _MAPS.items() for name in names}
    return {name: linear_weights(embed_dim, size, getattr(counts.ranks, name)) for name, size in sizes.items()}


def layer_weights(embed_dim: int, counts: LayerCounts, names: tuple[str, ...] = ATTENTION_MAPS + FEED_FORWARD_MAPS) -> int | Tensor:
    """Prunable weights of a layer, without biases: q, k, v, o and the two feed-forward matrices, or the named ones."""
    weights = map_weights(embed_dim, counts)
    return sum(weights[name] for name in names)


def prunable_weights(config: EncoderConfig, spec: CompactSpec) -> int:
    """Weight elements of the prunable matrices that `spec` keeps; 84,934,656 for dense WavLM Base."""
    return sum(layer_weights(config.embed_dim, LayerCounts.of(layer)) for layer in spec.layers)


def sparsity(kept: Number, config: EncoderConfig) -> Number:
    """1 - kept / all prunable weights of the dense model. The project's one definition of sparsity."""
    return 1 - kept / prunable_weights(config, CompactSpec.dense(config))


def realised_sparsity(config: EncoderConfig, spec: CompactSpec) -> float:
    """Sparsity of a structure, in [0, 1]."""
    return sparsity(prunable_weights(config, spec), config)


def parameters(config: EncoderConfig, spec: CompactSpec) -> dict[str, int]:
    """Parameters by part, biases and norms included; they sum to `numel()` of the encoder."""
    dim, heads = config.embed_dim, config.num_heads
    channels = [1, *(c for c, _, _ in config.conv_layers)]
    normed = len(config.conv_layers) if config.extractor_mode == "layer_norm" else 1
    cnn = sum(a * b * kernel for a, b, (_, kernel, _) in zip(channels, channels[1:], config.conv_layers))
    cnn += sum(channels[1:]) * config.conv_bias + sum(2 * c for c in channels[1 : 1 + normed])
    last = channels[-1]
    convolution = dim * dim // config.pos_conv_groups * config.pos_conv_kernel + dim
    parts = {
        "cnn": cnn,
        "projection": 2 * last + (last * dim + dim if last != dim else 0),
        "mask_embedding": dim,
        # weight normalisation has a scale per kernel position; data2vec's stack has none
        "positional_convolution": convolution * config.pos_conv_depth + config.pos_conv_kernel * (config.pos_conv_depth == 1),
        "relative_position": config.num_buckets * heads * (config.relative_position and spec.has_attention),
        "attention": 0,
        "feed_forward": 0,
        "layer_norms": 2 * dim * (2 * config.num_layers + 1),
    }  # fmt: skip
    for layer in spec.layers:
        counts = LayerCounts.of(layer)
        parts["attention"] += layer_weights(dim, counts, ATTENTION_MAPS)
        parts["attention"] += 2 * counts.qk + counts.vo + dim * layer.attention
        if config.gated_position and layer.heads:
            parts["attention"] += config.head_dim * 8 + 8 + len(layer.heads)
        parts["feed_forward"] += layer_weights(dim, counts, FEED_FORWARD_MAPS)
        parts["feed_forward"] += counts.ffn + dim * layer.feed_forward
    return parts


def num_frames(config: EncoderConfig, num_samples: int) -> int:
    """Frames that the feature extractor makes of `num_samples` samples (0 when there are too few)."""
    return config.num_frames(num_samples)


def macs(config: EncoderConfig, spec: CompactSpec, num_samples: int) -> dict[str, int]:
    """Multiply-accumulates by part for one utterance: convolutions, linears and the two products of attention.

    What the reference path runs is counted: heads of different sizes are padded to the layer's widest in the two products. Norms,
    activations, softmax and the bias' additions are not counted, as usual.
    """
    frames, in_channels, cnn, length = num_frames(config, num_samples), 1, 0, num_samples
    for channels, kernel, stride in config.conv_layers:
        length = (length - kernel) // stride + 1
        cnn += length * in_channels * channels * kernel
        in_channels = channels
    dim = config.embed_dim
    parts = {
        "cnn": cnn,
        "projection": frames * in_channels * dim * (in_channels != dim),
        # an even kernel makes one frame more than is kept
        "positional_convolution": (frames + 1 - config.pos_conv_kernel % 2) * config.pos_conv_depth
        * dim * dim // config.pos_conv_groups * config.pos_conv_kernel,
        "attention": 0,
        "feed_forward": 0,
    }  # fmt: skip
    for layer in spec.layers:
        counts = LayerCounts.of(layer)
        parts["attention"] += frames * layer_weights(dim, counts, ATTENTION_MAPS)
        width = padded_width([len(head.qk) for head in layer.heads]) + padded_width([len(head.vo) for head in layer.heads])
        parts["attention"] += frames * frames * len(layer.heads) * width
        if config.gated_position and config.relative_position:
            parts["attention"] += frames * len(layer.heads) * config.head_dim * 8
        parts["feed_forward"] += frames * layer_weights(dim, counts, FEED_FORWARD_MAPS)
    return parts
