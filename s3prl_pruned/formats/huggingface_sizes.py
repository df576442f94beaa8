"""Sizes of an encoder under the names of transformers' configurations of speech models."""

from typing import Any

from s3prl_pruned.models.shape import MEL_HOP, EncoderConfig
from s3prl_pruned.models.spec import CompactSpec


def sizes(shape: EncoderConfig, spec: CompactSpec) -> dict[str, Any]:
    """Sizes by transformers' names: dense sizes for Transformer layers, kept sizes for the CNN.

    Args:
        shape: the dense shape.
        spec: the kept structure.
    """
    _, kernels, strides = (list(numbers) for numbers in zip(*shape.conv_layers, strict=True))
    if shape.front_end == "log_mel":  # transformers counts samples
        kernels[0] = (kernels[0] - 1) * MEL_HOP + 400
        strides[0] *= MEL_HOP
    named = {
        "hidden_size": shape.embed_dim,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "intermediate_size": shape.ffn_dim,
        "conv_dim": [len(channels) for channels in spec.channels_of(shape)],
        "conv_kernel": kernels,
        "conv_stride": strides,
        "conv_bias": shape.conv_bias,
        "num_conv_pos_embeddings": shape.pos_conv_kernel,
        "num_conv_pos_embedding_groups": shape.pos_conv_groups,
        "feat_extract_norm": shape.extractor_mode.removesuffix("_norm"),
        "do_stable_layer_norm": shape.norm_first,
        "add_adapter": False,
    }
    if shape.relative_position:
        named |= {"num_buckets": shape.num_buckets, "max_bucket_distance": shape.max_distance}
    return named
