"""Write an encoder for DPHuBERT's and DiariZen's programs, if their format can express it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.dphubert_structure import FLAGS, LAYER
from s3prl_pruned.formats.keys import KeyTable
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec, LayerSpec, Ranks


def checkpoint(encoder: SpeechEncoder, table: KeyTable) -> dict[str, Any]:
    """Content of the file, `state_dict` and `config`, for `torch.save`.

    The published states are not in the file: their programs have a fixed rule.

    Args:
        encoder: fp32, on the CPU, with empty slots.
        table: names of the format.

    Raises:
        UserError: the format cannot express a part of the encoder.
    """
    config, spec = encoder.config, encoder.spec
    _check(config, spec, table.name)
    ours = dict(encoder.state_dict())
    ours.setdefault("feature_projection.channel_scale", torch.ones(len(spec.channels_of(config)[-1])))
    state = {theirs: ours[mine] for theirs, mine in table.keys(config, spec).items()}
    state["feature_extractor.dummy_weight"] = ours["feature_projection.channel_scale"]
    if config.family == "wavlm":
        for i, layer in enumerate(spec.layers):
            if layer.attention:
                state |= _gate(ours, i, layer, config)
    return {"state_dict": {key: value.detach().clone() for key, value in state.items()}, "config": _cfg(config, spec)}


def _gate(ours: Mapping[str, Tensor], i: int, layer: LayerSpec, config: EncoderConfig) -> dict[str, Tensor]:
    """Gate of the position bias for all heads, also removed ones. It must exist even without a position bias."""
    part, mine = LAYER.format(i=i) + "attention.", f"layers.{i}.attention.gate."
    scale = torch.ones(config.num_heads)
    if mine + "scale" in ours:
        scale[[head.index for head in layer.heads]] = ours[mine + "scale"].float()
    return {
        f"{part}gru_rel_pos_const": scale.view(1, -1, 1, 1),
        f"{part}gru_rel_pos_linear.weight": ours.get(mine + "projection.weight", torch.zeros(8, config.head_dim)),
        f"{part}gru_rel_pos_linear.bias": ours.get(mine + "projection.bias", torch.zeros(8)),
    }


def _check(config: EncoderConfig, spec: CompactSpec, name: str) -> None:
    """Raise UserError if the format cannot express the structure."""
    wavlm, bias = config.family == "wavlm", config.relative_position and spec.has_attention
    gated = wavlm and config.gated_position
    reasons = {
        "a data2vec": config.family == "data2vec" or config.pos_conv_depth > 1,
        "a lower frame rate in the upper layers": config.time_reduction is not None,
        "a pruned positional convolution": spec.position_groups is not None
        and len(spec.position_groups) < config.pos_conv_groups,
        "an encoder without a LayerNorm before its projection": not config.projection_norm,
        "an encoder without a projection behind its CNN": not config.has_projection,
        "a position bias without a gate, or in another model than WavLM": bias and not gated,
        "a WavLM without a position bias whose layer 0 has attention": wavlm and not bias and spec.layers[0].attention,
        "a position bias where layer 0 has no attention, which holds it there": bias and not spec.layers[0].heads,
    }
    for what, found in reasons.items():
        if found:
            raise UserError(f"the {name} format cannot hold {what}. Write a folder, or for transformers or as ONNX.")
    for i, layer in enumerate(spec.layers):
        _check_layer(i, layer, config, name)


def _check_layer(i: int, layer: LayerSpec, config: EncoderConfig, name: str) -> None:
    dims = tuple(range(config.head_dim))
    ragged = [head for head in layer.heads if head.qk != dims or head.vo != dims]
    if ragged:
        head = ragged[0]
        raise UserError(
            f"the {name} format holds whole heads of {config.head_dim} dimensions only, but head {head.index} of layer "
            f"{i} has {len(head.qk)} query/key and {len(head.vo)} value/output dimensions. Prune whole heads: "
            "`gates.dims_multiple: head`."
        )
    for part, alive, left in (
        ("attention", layer.attention, layer.heads),
        ("feed-forward", layer.feed_forward, layer.ffn),
    ):
        if alive and not left:
            raise UserError(
                f"the {name} format cannot hold a sublayer with only an output bias, as layer {i}'s {part}. Prune with "
                "gates of whole sublayers (`gates.kinds` with mha and ffn), which remove it."
            )
    if layer.ranks != Ranks():
        raise UserError(f"the {name} format holds no factors, but layer {i} has some ({layer.ranks}).")


def _cfg(config: EncoderConfig, spec: CompactSpec) -> dict[str, Any]:
    """Configuration as plain data, with all keys that the builders of their programs require."""
    channels = [len(kept) for kept in spec.channels_of(config)]
    cfg = {
        "extractor_mode": config.extractor_mode,
        "extractor_conv_layer_config": [
            (number, kernel, stride) for number, (_, kernel, stride) in zip(channels, config.conv_layers, strict=True)
        ],
        "extractor_conv_bias": config.conv_bias,
        "encoder_embed_dim": config.embed_dim,
        "encoder_projection_dropout": config.dropout,
        "encoder_pos_conv_kernel": config.pos_conv_kernel,
        "encoder_pos_conv_groups": config.pos_conv_groups,
        "encoder_num_layers": config.num_layers,
        "encoder_use_attention": [layer.attention for layer in spec.layers],
        "encoder_use_feed_forward": [layer.feed_forward for layer in spec.layers],
        "encoder_attention_dropout": config.attention_dropout,
        "encoder_ff_interm_features": [len(layer.ffn) for layer in spec.layers],
        "encoder_ff_interm_dropout": config.activation_dropout,
        "encoder_dropout": config.dropout,
        "encoder_layer_norm_first": config.norm_first,
        "encoder_layer_drop": 0.0,
        "aux_num_out": None,
        "normalize_waveform": config.normalize_waveform,
        **dict.fromkeys(FLAGS, False),
    }
    heads = [[head.index for head in layer.heads] for layer in spec.layers]
    if config.family != "wavlm":
        return {**cfg, "encoder_num_heads": [len(kept) for kept in heads], "encoder_head_dim": config.head_dim}
    return {
        **cfg,
        "encoder_total_num_heads": [config.num_heads] * config.num_layers,
        "encoder_remaining_heads": heads,
        "encoder_num_buckets": config.num_buckets,
        "encoder_max_distance": config.max_distance,
    }
