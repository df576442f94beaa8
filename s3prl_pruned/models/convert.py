"""Key tables of checkpoint formats, one each, used in both directions.

`{i}` stands for a Transformer layer, `{c}` for a layer of the feature extractor. A table lists (their key, our key);
an unknown or missing key stops the load and is named.
"""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from s3prl_pruned.checkpoint import load_checkpoint
from s3prl_pruned.config import UserError
from s3prl_pruned.models import families
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec, EncoderConfig

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
    return {k: v.view(1, -1, 1, 1) if state_is_gate_scale(k) else v for k, v in theirs.items()}


def state_is_gate_scale(key: str) -> bool:
    """Both public formats hold the gate's scale as (1, H, 1, 1)."""
    return key.endswith(("grep_a", "gru_rel_pos_const"))


def _modern_weight_norm(key: str) -> str:
    """torch's old weight_norm key -> its parametrization's."""
    return key.replace("conv.weight_g", f"conv.{_G}").replace("conv.weight_v", f"conv.{_V}")


def load_official(path: str | Path) -> SpeechEncoder:
    """Load Microsoft's checkpoint format; fp32, CPU, eval mode.

    Args:
        path: a torch file with `cfg` and `model`, as published and as s3prl converts it; or, ending in `.safetensors`,
            the same keys as tensors and `cfg` as JSON text in the metadata (`save_official_safetensors`).

    Raises:
        UserError: the file is truncated, holds foreign classes, or is of another architecture.
    """
    path = Path(path)
    checkpoint = _read_safetensors(path) if path.suffix == ".safetensors" else load_checkpoint(path)
    if not {"cfg", "model"} <= checkpoint.keys():
        raise UserError(f"{path}: a WavLM checkpoint must hold `cfg` and `model`, but holds {sorted(checkpoint)[:5]}.")
    for name in ("cfg", "model"):
        if not isinstance(checkpoint[name], dict):
            raise UserError(f"{path}: `{name}` must be a dict, but is a {type(checkpoint[name]).__name__}.")
    config = families.from_official(checkpoint["cfg"], str(path))
    encoder = SpeechEncoder(config)
    encoder.load_state_dict(to_ours(checkpoint["model"], config, "official", str(path)))
    return encoder.float().eval()


def official_checkpoint(encoder: SpeechEncoder) -> dict:
    """Microsoft's checkpoint format of a dense encoder, for `torch.save`.

    Raises:
        UserError: the encoder is pruned, which that format cannot say.
    """
    if encoder.spec != CompactSpec.dense(encoder.config):
        raise UserError("Microsoft's checkpoint format holds dense encoders only, but this one is pruned.")
    return {
        "cfg": families.to_official(encoder.config),
        "model": to_theirs(encoder.state_dict(), encoder.config, "official"),
    }


def save_official_safetensors(encoder: SpeechEncoder, path: str | Path, *, dtype: torch.dtype) -> None:
    """Write a dense encoder under Microsoft's names, `cfg` as JSON text in the metadata: what `load_official` reads.

    Args:
        encoder: dense.
        path: ends in `.safetensors`; there whole or not at all.
        dtype: of every tensor in the file.

    Raises:
        UserError: the encoder is pruned, or the file cannot be written.
    """
    path = Path(path)
    checkpoint = official_checkpoint(encoder)
    state = {key: value.detach().to("cpu", dtype).contiguous() for key, value in checkpoint["model"].items()}
    partial = path.with_name(f".{path.name}.tmp")
    try:
        save_file(state, partial, metadata={"format": "pt", "cfg": json.dumps(checkpoint["cfg"])})
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: could not be written ({error}). Free space or name another folder.") from error


def _read_safetensors(path: Path) -> dict:
    if not path.is_file():
        raise UserError(f"{path}: no such file. Give the path of an existing checkpoint.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            model = {key: file.get_tensor(key) for key in file.keys()}
        return {name: json.loads(metadata[name]) for name in ("cfg",) if name in metadata} | {"model": model}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: is truncated, or is no safetensors file ({error}). Copy the file again.") from error
    except ValueError as error:
        raise UserError(f"{path}: the metadata `cfg` is not JSON ({error}).") from error
