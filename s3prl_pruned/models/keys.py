"""Key tables of checkpoint formats, one each, used in both directions.

`{i}` stands for a Transformer layer, `{c}` for a layer of the feature extractor, `{p}` for one of data2vec's stacked
positional convolutions. An unknown or missing key stops the load and is named.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import EncoderConfig

_CNN = "feature_extractor.conv_layers.{c}."
_HF, _TA = "encoder.layers.{i}.", "encoder.transformer.layers.{i}."

# Beginnings of keys, "." at the end where more follows: (official: Microsoft, fairseq and s3prl; Hugging Face;
# torchaudio; ours). None: the format does not hold it.
_PARTS = [
    ("mask_emb", "masked_spec_embed", None, "mask_embedding"),
    (_CNN + "0.", _CNN + "conv.", _CNN + "conv.", "feature_extractor.layers.{c}.conv."),
    (_CNN + "2.", _CNN + "layer_norm.", _CNN + "layer_norm.", "feature_extractor.layers.{c}.norm."),
    ("layer_norm.", "feature_projection.layer_norm.", "encoder.feature_projection.layer_norm.", "feature_projection.layer_norm."),
    ("post_extract_proj.", "feature_projection.projection.", "encoder.feature_projection.projection.", "feature_projection.projection."),
    ("encoder.pos_conv.0.", "encoder.pos_conv_embed.conv.", "encoder.transformer.pos_conv_embed.conv.", "positional_convolution.conv."),
    ("encoder.pos_conv.{p}.0.", "encoder.pos_conv_embed.layers.{p}.conv.", None, "positional_convolution.convs.{p}."),
    ("encoder.layers.0.self_attn.relative_attention_bias.", "encoder.layers.0.attention.rel_attn_embed.", "encoder.transformer.layers.0.attention.rel_attn_embed.", "relative_position.embedding."),
    (_HF + "self_attn.grep_linear.", _HF + "attention.gru_rel_pos_linear.", _TA + "attention.gru_rel_pos_linear.", "layers.{i}.attention.gate.projection."),
    (_HF + "self_attn.grep_a", _HF + "attention.gru_rel_pos_const", _TA + "attention.gru_rel_pos_const", "layers.{i}.attention.gate.scale"),
    (_HF + "self_attn.q_proj.", _HF + "attention.q_proj.", _TA + "attention.q_proj.", "layers.{i}.attention.q_proj."),
    (_HF + "self_attn.k_proj.", _HF + "attention.k_proj.", _TA + "attention.k_proj.", "layers.{i}.attention.k_proj."),
    (_HF + "self_attn.v_proj.", _HF + "attention.v_proj.", _TA + "attention.v_proj.", "layers.{i}.attention.v_proj."),
    (_HF + "self_attn.out_proj.", _HF + "attention.out_proj.", _TA + "attention.out_proj.", "layers.{i}.attention.out_proj."),
    (_HF + "self_attn_layer_norm.", _HF + "layer_norm.", _TA + "layer_norm.", "layers.{i}.attention_layer_norm."),
    (_HF + "fc1.", _HF + "feed_forward.intermediate_dense.", _TA + "feed_forward.intermediate_dense.", "layers.{i}.feed_forward.fc1."),
    (_HF + "fc2.", _HF + "feed_forward.output_dense.", _TA + "feed_forward.output_dense.", "layers.{i}.feed_forward.fc2."),
    (_HF + "final_layer_norm.", _HF + "final_layer_norm.", _TA + "final_layer_norm.", "layers.{i}.final_layer_norm."),
    ("encoder.layer_norm.", "encoder.layer_norm.", "encoder.transformer.layer_norm.", "layer_norm."),
]  # fmt: skip


@dataclass(frozen=True)
class _Format:
    """What distinguishes one format beyond its column of `_PARTS`."""

    column: int
    weight_norm: tuple[str, str]
    """Its names of weight normalisation's magnitude and direction; the other pair is read too."""
    heads: tuple[str, ...]
    """Pre-training heads that public checkpoints carry beside the encoder, by name; they are left out."""


_OLD_WEIGHT_NORM = ("weight_g", "weight_v")
_NEW_WEIGHT_NORM = ("parametrizations.weight.original0", "parametrizations.weight.original1")
_FAIRSEQ_HEADS = ("final_proj.", "label_embs_concat", "target_glu.", "quantizer.", "project_q.", "_ema")
_FORMATS = {
    "official": _Format(0, _OLD_WEIGHT_NORM, _FAIRSEQ_HEADS),
    "huggingface": _Format(1, _NEW_WEIGHT_NORM, ("quantizer.", "project_hid.", "project_q.")),
    "torchaudio": _Format(2, _NEW_WEIGHT_NORM, ("mask_generator.", "logit_generator.")),
}
# transformers' heads wrap the encoder under one of these names.
_HUGGINGFACE_WRAPPERS = ("wavlm.", "hubert.", "wav2vec2.", "data2vec_audio.")


def key_table(config: EncoderConfig, fmt: str) -> dict[str, str]:
    """Their key -> our key, for every parameter of a dense encoder of this configuration that the format holds.

    Args:
        config: the dense shape.
        fmt: `official` (Microsoft's WavLM, fairseq, s3prl), `huggingface` or `torchaudio`.

    Raises:
        UserError: the format has no place for a part of this architecture.
    """
    with torch.device("meta"):
        ours = list(SpeechEncoder(config).state_dict())  # in its order, and so files are the same every time
    table, left_out = {}, set()
    for part in _PARTS:
        theirs, mine = part[_FORMATS[fmt].column], part[3]
        for index in _indices(mine, config):
            prefix = mine.format(**index)
            for key in ours:
                if key == prefix or (prefix.endswith(".") and key.startswith(prefix)):
                    if theirs is None:
                        left_out.add(key)
                    else:
                        table[_their_key(theirs.format(**index), key[len(prefix) :], config, fmt)] = key
    if left_out - {"mask_embedding"}:  # pre-training alone uses that one
        nameless = min(left_out - {"mask_embedding"})
        raise UserError(f"the {fmt} format has no name for {nameless!r}: it cannot hold this {config.family} encoder.")
    assert set(table.values()) | left_out == set(ours), set(ours) - set(table.values())
    return table


def _indices(template: str, config: EncoderConfig) -> list[dict[str, int]]:
    for letter, count in (("c", len(config.conv_layers)), ("i", config.num_layers), ("p", config.pos_conv_depth)):
        if f"{{{letter}}}" in template:
            return [{letter: n} for n in range(count)]
    return [{}]


def _their_key(prefix: str, rest: str, config: EncoderConfig, fmt: str) -> str:
    rest = dict(zip(_NEW_WEIGHT_NORM, _FORMATS[fmt].weight_norm)).get(rest, rest)
    if fmt == "official" and config.extractor_mode == "layer_norm" and prefix.endswith(".2.") and "conv_layers" in prefix:
        prefix += "1."  # fairseq wraps that LayerNorm between two transpositions
    if fmt == "torchaudio" and config.family == "wavlm" and prefix.endswith("_proj."):
        prefix = prefix.replace(".attention.", ".attention.attention.")  # its WavLM wraps nn.MultiheadAttention
    return prefix + rest


def to_ours(
    state: dict[str, Tensor], config: EncoderConfig, fmt: str, where: str, *, mask_embedding: bool = True
) -> dict[str, Tensor]:
    """Rename a foreign state dict; nothing else changes but the shape of the gate's scale.

    Args:
        state: theirs, fp32 or lower.
        config: what it declares itself to be.
        fmt: see `key_table`.
        where: its name in messages.
        mask_embedding: False where the checkpoint says that it has none, or its format has none: zeros then.

    Raises:
        UserError: a key is unknown, missing or of another shape; the message names it.
    """
    table = key_table(config, fmt)
    state = _normalise_names(state, fmt, where)
    state = {k: v for k, v in state.items() if k in table or not k.startswith(_FORMATS[fmt].heads)}
    with torch.device("meta"):
        expected = SpeechEncoder(config).state_dict()
    ours = {}
    if "mask_embedding" not in table.values() or not mask_embedding:
        table = {theirs: mine for theirs, mine in table.items() if mine != "mask_embedding"}
        ours["mask_embedding"] = torch.zeros(config.embed_dim)
    unknown, missing = sorted(state.keys() - table.keys()), sorted(table.keys() - state.keys())
    if unknown or missing:
        raise UserError(
            f"{where}: not a {config.family} checkpoint in the {fmt} format with these dimensions: "
            f"unknown keys {unknown[:3]} ({len(unknown)} in all), missing keys {missing[:3]} ({len(missing)} in all)."
        )
    for theirs, mine in table.items():
        value = state[theirs]
        if not isinstance(value, Tensor):
            raise UserError(f"{where}: `{theirs}` must be a tensor, but is a {type(value).__name__}.")
        value = value.flatten() if mine.endswith("gate.scale") else value
        if value.shape != expected[mine].shape:
            raise UserError(
                f"{where}: `{theirs}` must have shape {tuple(expected[mine].shape)}, but has {tuple(value.shape)}."
            )
        ours[mine] = value
    return ours


def to_theirs(state: dict[str, Tensor], config: EncoderConfig, fmt: str) -> dict[str, Tensor]:
    """The other way round: our dense state dict under their names and in their shapes."""
    theirs = {key: state[mine] for key, mine in key_table(config, fmt).items()}
    theirs = {k: v.view(1, -1, 1, 1) if _is_gate_scale(k) else v for k, v in theirs.items()}
    return _fuse_projections(theirs) if fmt == "torchaudio" else theirs


def _is_gate_scale(key: str) -> bool:
    """All public formats hold the gate's scale as (1, H, 1, 1)."""
    return key.endswith(("grep_a", "gru_rel_pos_const"))


def _normalise_names(state: dict[str, Tensor], fmt: str, where: str) -> dict[str, Tensor]:
    """Weight norm under the format's own names, no wrapper's prefix, no fused projections."""
    pairs = {*zip(_OLD_WEIGHT_NORM, _FORMATS[fmt].weight_norm), *zip(_NEW_WEIGHT_NORM, _FORMATS[fmt].weight_norm)}
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        for found, wanted in pairs:
            if "pos_conv" in key and key.endswith(f".{found}"):
                key = key[: -len(found)] + wanted
        if fmt == "huggingface":
            wrapper = next((prefix for prefix in _HUGGINGFACE_WRAPPERS if key.startswith(prefix)), "")
            key = key[len(wrapper) :]
        if fmt == "torchaudio":
            key = key.removeprefix("wav2vec2.")
        if key in renamed:
            raise UserError(f"{where}: holds `{key}` twice, under an old and a new name. Keep one.")
        renamed[key] = value
    return _split_projections(renamed) if fmt == "torchaudio" else renamed


def _split_projections(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchaudio's WavLM holds query, key and value as one matrix: (3D, D) -> three of (D, D)."""
    split = {}
    for key, value in state.items():
        stem, found, kind = key.partition("in_proj_")
        if found and isinstance(value, Tensor):
            split.update({f"{stem}{name}_proj.{kind}": part for name, part in zip("qkv", value.chunk(3))})
        else:
            split[key] = value
    return split


def _fuse_projections(state: dict[str, Tensor]) -> dict[str, Tensor]:
    fused = dict(state)
    for key in state:
        stem, found, kind = key.partition("q_proj.")
        if found and stem.endswith(".attention.attention."):
            fused[f"{stem}in_proj_{kind}"] = torch.cat([fused.pop(f"{stem}{name}_proj.{kind}") for name in "qkv"])
    return fused
