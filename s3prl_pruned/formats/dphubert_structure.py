"""Structure of a checkpoint in DPHuBERT's or DiariZen's format: nearly all of it is read from the tensors' shapes.

The shapes say what was kept. They do not say which heads of a WavLM were kept, the strides, the places of LayerNorms,
and whether waveforms are normalised. This is taken from the configuration beside them. Without one, the values of the
public models are used (for heads, those in `HEADS`).
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.formats.format import CONFIG, Source
from s3prl_pruned.formats.keys import NEW_WEIGHT_NORM, OLD_WEIGHT_NORM
from s3prl_pruned.models import families
from s3prl_pruned.models.peers import DIARIZEN_HEADS
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec, HeadSpec, LayerSpec
from s3prl_pruned.models.state_rule import StateRule

CONFIGURATION, RECIPE = "pruned_config.json", "config.toml"
"""DiariZen's files beside the weights: configuration of the encoder, and of the diarizer, which names the encoder."""
MARK = "feature_extractor.dummy_weight"
LAYER = "encoder.transformer.layers.{i}."
CONV = "feature_extractor.conv_layers.{c}."
FLAGS = (
    "extractor_prune_conv_channels",
    "encoder_prune_attention_heads",
    "encoder_prune_attention_layer",
    "encoder_prune_feed_forward_intermediate",
    "encoder_prune_feed_forward_layer",
)
"""Keys that are true while there are gates."""
_OF_DIARIZEN = {"use_layerwise_prune", "limit_l", "limit_r", "temperature"}
_INSIDE = ("wavlm_model.", "frontend.upstream.")
"""Prefixes of an encoder's names in a diarizer of DiariZen, or in a detector of wedefense."""

HEADS = {name: [list(heads) for heads in layers] for name, layers in DIARIZEN_HEADS.items()}
"""Kept heads by layer, of encoders that DiariZen publishes within diarizers (from its `wavlm_config.py`)."""


def declares(source: Source) -> bool:
    """Whether it is declared to be a checkpoint in this format, or a folder with one."""
    if source.is_folder:
        others = {"format", "model_type"} & (source.json(CONFIG) or {}).keys()
        return not others and (source.json(CONFIGURATION) is not None or encoder_named(source.folder) is not None)
    cfg = source.content.get("config")
    named = isinstance(cfg, dict) and "encoder_use_attention" in cfg
    return named or any(f".{key}".endswith(f".{MARK}") for key in source.weights)


def is_diarizens(source: Source) -> bool:
    """Whether it was written by DiariZen, or by wedefense, which uses its code: their states differ from DPHuBERT's."""
    if source.is_folder:
        return True
    cfg = source.content.get("config") or source.json(CONFIGURATION)
    own = isinstance(cfg, dict) and any(str(key) in _OF_DIARIZEN or str(key).startswith("wavlm_") for key in cfg)
    return own or any(
        str(key).startswith(_INSIDE) or str(key).endswith(f"pos_conv_embed.conv.{NEW_WEIGHT_NORM[0]}")
        for key in source.weights
    )


def encoder_named(folder: Path) -> str | None:
    """Name of the encoder in DiariZen's recipe in a folder, such as wavlm_base_s80_md; None if there is none.

    Searches for one line, because Python has a TOML reader only from 3.11 on.
    """
    try:
        text = (folder / RECIPE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    found = re.search(r"""^\s*wavlm_src\s*=\s*["']([^"'\n]*)["']""", text, re.MULTILINE)
    return found and found[1]


class _Sizes:
    """Checks and returns the shapes of tensors, by name."""

    def __init__(self, state: Mapping[str, Any], where: str):
        self.state, self.where = state, where

    def of(self, key: str, dims: int) -> torch.Size:
        value = self.state.get(key)
        if value is None:
            raise UserError(f"{self.where}: lacks `{key}`. It is damaged, or another format: copy it again.")
        if not isinstance(value, Tensor) or value.dim() != dims or 0 in value.shape[1:]:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"{self.where}: `{key}` must be a tensor of {dims} dimensions, but is {found}.")
        return value.shape

    def count(self, template: str) -> int:
        """Number of consecutive keys, counted from 0."""
        return next(i for i in itertools.count() if template.format(i=i, c=i) not in self.state)


def structure_of(
    state: Mapping[str, Any],
    cfg: Mapping[str, Any],
    where: str,
    *,
    dense: EncoderConfig | None = None,
    states: StateRule,
) -> tuple[EncoderConfig, CompactSpec]:
    """The dense shape, and the kept structure.

    Args:
        state: without gates, with the encoder's own names.
        cfg: configuration of the encoder; may be empty.
        where: name of the file in messages.
        dense: the dense shape, if the encoder fits it; else a public shape that it fits, or the smallest possible one.
        states: rule of the published states.

    Raises:
        UserError: a tensor is missing or of another kind, `cfg` is damaged or contradicts the tensors, or the kept
            heads are not given.
    """
    sizes = _Sizes(state, where)
    wavlm = "encoder_remaining_heads" in cfg or any(key.endswith("gru_rel_pos_const") for key in state)
    embed_dim = sizes.of("encoder.feature_projection.projection.weight", 2)[0]
    num_layers = sizes.count(LAYER + "layer_norm.weight")
    if not num_layers:
        sizes.of(LAYER.format(i=0) + "layer_norm.weight", 1)  # reports it if missing
    num_heads = _num_heads(sizes, cfg, num_layers, embed_dim, wavlm=wavlm)
    convs = [sizes.of(CONV.format(c=c) + "conv.weight", 3) for c in range(max(1, sizes.count(CONV + "conv.weight")))]
    layers = [
        _layer(sizes, i, num_heads, embed_dim // num_heads, _heads_of(i, cfg, where) if wavlm else None)
        for i in range(num_layers)
    ]
    _check_declared(cfg, layers, [conv[0] for conv in convs], where)
    has_bias = wavlm and layers[0].attention
    buckets = sizes.of(LAYER.format(i=0) + "attention.rel_attn_embed.weight", 2)[0] if has_bias else 320
    strides = _strides(convs, cfg, where)
    position = sizes.of(_NEW_POSITION if _NEW_POSITION in state else _POSITION, 3)
    mode = cfg.get("extractor_mode", "layer_norm" if CONV.format(c=1) + "layer_norm.weight" in state else "group_norm")
    family = "wavlm" if wavlm else dense.family if dense is not None and dense.family != "wavlm" else "hubert"
    fields = {
        "family": family,
        "conv_layers": [[conv[0], conv[2], stride] for conv, stride in zip(convs, strides, strict=True)],
        "extractor_mode": mode,
        "conv_bias": CONV.format(c=0) + "conv.bias" in state,
        "num_layers": num_layers,
        "embed_dim": embed_dim,
        "num_heads": num_heads,
        "ffn_dim": max(1, *(len(layer.ffn) for layer in layers)),
        "norm_first": cfg.get("encoder_layer_norm_first", mode == "layer_norm"),
        "normalize_waveform": cfg.get("normalize_waveform", mode == "layer_norm"),
        "pos_conv_kernel": position[2],
        "pos_conv_groups": embed_dim // position[1],
        "relative_position": has_bias,
        "gated_position": has_bias,
        "num_buckets": buckets,
        "max_distance": cfg.get("encoder_max_distance", 800),
        "padding_rule": "convolution",
        "channel_scale": True,
    }
    left = from_dict(EncoderConfig, fields, where)
    left = replace(left, states=states)
    if not left.has_projection:
        raise UserError(f"{where}: projects {embed_dim} channels to as many dimensions, which is not supported.")
    return _within(_dense(left, dense), left, tuple(layers))


_POSITION = "encoder.transformer.pos_conv_embed.conv.weight_v"
_NEW_POSITION = _POSITION.replace(OLD_WEIGHT_NORM[1], NEW_WEIGHT_NORM[1])


def _num_heads(sizes: _Sizes, cfg: Mapping[str, Any], num_layers: int, embed_dim: int, *, wavlm: bool) -> int:
    """Number of heads in a dense layer."""
    if wavlm:
        declared = cfg.get("encoder_total_num_heads")
        gate = next((k for k in sizes.state if k.endswith("gru_rel_pos_const")), None)
        number = declared[0] if declared else sizes.of(gate, 4)[1] if gate else embed_dim // 64
        if declared and set(declared) != {number}:
            raise UserError(f"{sizes.where}: `encoder_total_num_heads` must be one number, but is {declared}.")
    else:
        number = embed_dim // cfg.get("encoder_head_dim", 64)
    if type(number) is not int or not 1 <= number <= embed_dim or embed_dim % number:
        raise UserError(f"{sizes.where}: {embed_dim} dimensions must divide into whole heads, but give {number!r}.")
    return number


def _heads_of(i: int, cfg: Mapping[str, Any], where: str) -> list[int] | None:
    """The kept heads in a layer of WavLM; None if they are not given."""
    found = cfg["encoder_remaining_heads"][i] if "encoder_remaining_heads" in cfg else None
    if found is not None and not (isinstance(found, list) and all(type(head) is int for head in found)):
        raise UserError(f"{where}: `encoder_remaining_heads` must be lists of numbers, but holds {found!r}.")
    return found


def _layer(sizes: _Sizes, i: int, num_heads: int, head_dim: int, known: list[int] | None) -> LayerSpec:
    layer, dims = LAYER.format(i=i), tuple(range(head_dim))
    attention = any(key.startswith(f"{layer}attention.") for key in sizes.state)
    feed_forward = any(key.startswith(f"{layer}feed_forward.") for key in sizes.state)
    heads: list[int] = []
    if attention:
        rows = sizes.of(f"{layer}attention.q_proj.weight", 2)[0]
        if rows % head_dim or rows > num_heads * head_dim:
            raise UserError(
                f"{sizes.where}: layer {i} must have whole heads of {head_dim} dimensions, at most {num_heads}, but "
                f"has {rows} dimensions."
            )
        heads = list(range(rows // head_dim)) if known is None else known
        wavlm = f"{layer}attention.gru_rel_pos_const" in sizes.state
        if known is None and wavlm and len(heads) < num_heads:
            raise UserError(
                f"{sizes.where}: layer {i} has {len(heads)} of {num_heads} heads, but the file does not say which. "
                f"Put the {CONFIGURATION} of this model beside it (`encoder_remaining_heads` lists them). Known "
                f"without this file are {', '.join(HEADS)}, if their {RECIPE} is beside them."
            )
        if len(heads) != rows // head_dim:
            raise UserError(
                f"{sizes.where}: layer {i} must have {len(heads)} heads, {heads}, but its weights have "
                f"{rows // head_dim}."
            )
    ffn = sizes.of(f"{layer}feed_forward.intermediate_dense.weight", 2)[0] if feed_forward else 0
    return LayerSpec(
        attention=attention,
        heads=tuple(HeadSpec(index=head, qk=dims, vo=dims) for head in heads),
        feed_forward=feed_forward,
        ffn=tuple(range(ffn)),
    )


def _strides(convs: list[torch.Size], cfg: Mapping[str, Any], where: str) -> list[int]:
    declared = cfg.get("extractor_conv_layer_config")
    if declared:
        return [layer[2] for layer in declared]
    kernels = [conv[2] for conv in convs]
    if kernels[0] != 10 or not set(kernels[1:]) <= {2, 3}:
        raise UserError(
            f"{where}: has a CNN with kernels {kernels}, but the file does not give its strides. Put the "
            f"{CONFIGURATION} of this model beside it."
        )
    return [5] + [2] * (len(kernels) - 1)  # as in every public model with these kernels


def _check_declared(cfg: Mapping[str, Any], layers: list[LayerSpec], channels: list[int], where: str) -> None:
    """Check that sizes in the configuration are those of the tensors, except for removed parts."""
    counts: dict[str, list[Any]] = {
        "encoder_use_attention": [layer.attention for layer in layers],
        "encoder_use_feed_forward": [layer.feed_forward for layer in layers],
        "encoder_ff_interm_features": [len(layer.ffn) if layer.feed_forward else None for layer in layers],
        "encoder_num_heads": [len(layer.heads) if layer.attention else None for layer in layers],
        "extractor_conv_layer_config": channels,
    }
    for name, found in counts.items():
        declared = cfg.get(name)
        if declared is None or (name == "encoder_ff_interm_features" and len(declared) < len(layers)):
            continue  # DiariZen leaves out layers without heads
        if name == "extractor_conv_layer_config":
            declared = [layer[0] for layer in declared]
        alike = len(declared) == len(found)
        if not alike or any(b is not None and a != b for a, b in zip(declared, found, strict=True)):
            raise UserError(
                f"{where}: `{name}` says {declared}, but the weights have {found}. They belong to different models."
            )


def _dense(left: EncoderConfig, hint: EncoderConfig | None) -> EncoderConfig:
    """The shape before pruning: the hint or a public shape if it fits, else the remaining structure."""
    shapes = [families.wavlm_base(), families.wavlm_large()]  # the other families have the same sizes
    for whole in shapes if hint is None else [hint, *shapes]:
        same = all(getattr(whole, name) == getattr(left, name) for name in ("embed_dim", "num_layers", "num_heads"))
        pairs = list(itertools.zip_longest(whole.conv_layers, left.conv_layers, fillvalue=(0, 0, 0)))
        fits = all(a[1:] == b[1:] and a[0] >= b[0] for a, b in pairs) and whole.ffn_dim >= left.ffn_dim
        if same and fits:
            return replace(left, conv_layers=whole.conv_layers, ffn_dim=whole.ffn_dim)
    return left


def _within(
    dense: EncoderConfig, left: EncoderConfig, layers: tuple[LayerSpec, ...]
) -> tuple[EncoderConfig, CompactSpec]:
    channels = tuple(tuple(range(number)) for number, _, _ in left.conv_layers)
    return dense, CompactSpec(layers=layers, channels=None if dense.conv_layers == left.conv_layers else channels)
