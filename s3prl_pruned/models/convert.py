"""Key tables of checkpoint formats, one each, used in both directions.

`{i}` stands for a Transformer layer, `{c}` for a layer of the feature extractor. A table lists (their key, our key);
an unknown or missing key stops the load and is named.
"""

from pathlib import Path

import torch
from torch import Tensor

from s3prl_pruned.checkpoint import load_checkpoint
from s3prl_pruned.config import UserError
from s3prl_pruned.models import families
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import EncoderConfig

_WEIGHT_BIAS = ("weight", "bias")
_G, _V = "parametrizations.weight.original0", "parametrizations.weight.original1"

# Parts of the two public formats of WavLM: (Microsoft's and s3prl's, Hugging Face's, ours).
_PARTS = [
    ("mask_emb", "masked_spec_embed", "mask_embedding"),
    ("feature_extractor.conv_layers.{c}.0.", "feature_extractor.conv_layers.{c}.conv.", "feature_extractor.layers.{c}.conv."),
    ("feature_extractor.conv_layers.{c}.2.", "feature_extractor.conv_layers.{c}.layer_norm.", "feature_extractor.layers.{c}.norm."),
    ("layer_norm.", "feature_projection.layer_norm.", "feature_projection.layer_norm."),
    ("post_extract_proj.", "feature_projection.projection.", "feature_projection.projection."),
    ("encoder.pos_conv.0.", "encoder.pos_conv_embed.conv.", "positional_convolution.conv."),
    ("encoder.layers.0.self_attn.relative_attention_bias.", "encoder.layers.0.attention.rel_attn_embed.", "relative_position.embedding."),
    ("encoder.layers.{i}.self_attn.grep_linear.", "encoder.layers.{i}.attention.gru_rel_pos_linear.", "layers.{i}.attention.gate.projection."),
    ("encoder.layers.{i}.self_attn.grep_a", "encoder.layers.{i}.attention.gru_rel_pos_const", "layers.{i}.attention.gate.scale"),
    ("encoder.layers.{i}.self_attn.q_proj.", "encoder.layers.{i}.attention.q_proj.", "layers.{i}.attention.q_proj."),
    ("encoder.layers.{i}.self_attn.k_proj.", "encoder.layers.{i}.attention.k_proj.", "layers.{i}.attention.k_proj."),
    ("encoder.layers.{i}.self_attn.v_proj.", "encoder.layers.{i}.attention.v_proj.", "layers.{i}.attention.v_proj."),
    ("encoder.layers.{i}.self_attn.out_proj.", "encoder.layers.{i}.attention.out_proj.", "layers.{i}.attention.out_proj."),
    ("encoder.layers.{i}.self_attn_layer_norm.", "encoder.layers.{i}.layer_norm.", "layers.{i}.attention_layer_norm."),
    ("encoder.layers.{i}.fc1.", "encoder.layers.{i}.feed_forward.intermediate_dense.", "layers.{i}.feed_forward.fc1."),
    ("encoder.layers.{i}.fc2.", "encoder.layers.{i}.feed_forward.output_dense.", "layers.{i}.feed_forward.fc2."),
    ("encoder.layers.{i}.final_layer_norm.", "encoder.layers.{i}.final_layer_norm.", "layers.{i}.final_layer_norm."),
    ("encoder.layer_norm.", "encoder.layer_norm.", "layer_norm."),
]  # fmt: skip

_FORMATS = {"official": 0, "huggingface": 1}
# Pre-training heads that public checkpoints carry beside the encoder, by name.
_PRETRAINING_HEADS = ("final_proj.", "label_embs_concat", "target_glu.", "quantizer.", "project_q.")


def key_table(config: EncoderConfig, fmt: str) -> dict[str, str]:
    """Their key -> our key, for every parameter of a dense encoder of this configuration.

    Args:
        config: the dense shape.
        fmt: `official` (Microsoft's WavLM, s3prl) or `huggingface` (`WavLMModel`).
    """
    with torch.device("meta"):
        ours = set(SpeechEncoder(config).state_dict())
    table = {}
    for part in _PARTS:
        theirs, mine = part[_FORMATS[fmt]], part[2]
        for c, i in _indices(mine, config):
            prefix = mine.format(c=c, i=i)
            for key in ours:
                if key == prefix or (prefix.endswith(".") and key.startswith(prefix)):
                    table[_their_key(theirs.format(c=c, i=i), key[len(prefix) :], config, fmt)] = key
    assert set(table.values()) == ours, ours - set(table.values())
    return table


def _indices(template: str, config: EncoderConfig) -> list[tuple[int, int]]:
    if "{c}" in template:
        return [(c, 0) for c in range(len(config.conv_layers))]
    return [(0, i) for i in range(config.num_layers)] if "{i}" in template else [(0, 0)]


def _their_key(prefix: str, rest: str, config: EncoderConfig, fmt: str) -> str:
    if fmt == "official":
        rest = {_G: "weight_g", _V: "weight_v"}.get(rest, rest)
        if config.extractor_mode == "layer_norm" and prefix.endswith(".2."):
            prefix += "1."  # s3prl wraps that LayerNorm between two transpositions
    return prefix + rest


def to_ours(state: dict[str, Tensor], config: EncoderConfig, fmt: str, where: str) -> dict[str, Tensor]:
    """Rename a foreign state dict; nothing else changes but the shape of the gate's scale.

    Raises:
        UserError: a key is unknown, missing or of another shape; the message names it.
    """
    table = key_table(config, fmt)
    state = {_modern_weight_norm(k) if fmt == "huggingface" else k: v for k, v in state.items()}
    state = {k: v for k, v in state.items() if k in table or not k.startswith(_PRETRAINING_HEADS)}
    unknown, missing = sorted(state.keys() - table.keys()), sorted(table.keys() - state.keys())
    if unknown or missing:
        raise UserError(
            f"{where}: not a {config.family} checkpoint in the {fmt} format with these dimensions: "
            f"unknown keys {unknown[:3]} ({len(unknown)} in all), missing keys {missing[:3]} ({len(missing)} in all)."
        )
    with torch.device("meta"):
        expected = SpeechEncoder(config).state_dict()
    ours = {}
    for theirs, mine in table.items():
        value = state[theirs].flatten() if mine.endswith("gate.scale") else state[theirs]
        if value.shape != expected[mine].shape:
            raise UserError(
                f"{where}: `{theirs}` must have shape {tuple(expected[mine].shape)}, but has {tuple(value.shape)}."
            )
        ours[mine] = value
    return ours


def to_theirs(state: dict[str, Tensor], config: EncoderConfig, fmt: str) -> dict[str, Tensor]:
    """The other way round: our dense state dict under their names and in their shapes."""
    theirs = {key: state[mine] for key, mine in key_table(config, fmt).items()}
    return {k: v.view(1, -1, 1, 1) if state_is_gate_scale(k) else v for k, v in theirs.items()}


def state_is_gate_scale(key: str) -> bool:
    """Both public formats hold the gate's scale as (1, H, 1, 1)."""
    return key.endswith(("grep_a", "gru_rel_pos_const"))


def _modern_weight_norm(key: str) -> str:
    """torch's old weight_norm key -> its parametrization's."""
    return key.replace("conv.weight_g", f"conv.{_G}").replace("conv.weight_v", f"conv.{_V}")


def load_official(path: str | Path) -> SpeechEncoder:
    """Load Microsoft's checkpoint format (`cfg`, `model`), as published and as s3prl converts it; fp32, eval mode.

    Raises:
        UserError: the file is truncated, holds foreign classes, or is of another architecture.
    """
    checkpoint = load_checkpoint(path)
    if not isinstance(checkpoint, dict) or not {"cfg", "model"} <= checkpoint.keys():
        found = sorted(checkpoint)[:5] if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise UserError(f"{path}: a WavLM checkpoint must hold `cfg` and `model`, but holds {found}.")
    config = families.from_official(checkpoint["cfg"], str(path))
    encoder = SpeechEncoder(config)
    encoder.load_state_dict(to_ours(checkpoint["model"], config, "official", str(path)))
    return encoder.float().eval()


def official_checkpoint(encoder: SpeechEncoder) -> dict:
    """Microsoft's checkpoint format of a dense encoder, for `torch.save`."""
    return {
        "cfg": families.to_official(encoder.config),
        "model": to_theirs(encoder.state_dict(), encoder.config, "official"),
    }
