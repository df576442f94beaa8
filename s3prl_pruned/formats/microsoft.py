"""Microsoft's format of WavLM, also used by s3prl: `cfg` and `model`, as a torch file or as safetensors."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.formats.fairseq import EXTRACTOR_MODES, KEYS, declared, is_microsofts, parse_conv_layers
from s3prl_pruned.formats.format import Format, LoadedModel, ReadOptions, Source, WriteOptions, dense_model, taken_apart
from s3prl_pruned.formats.tensor_files import write_safetensors, write_torch_file, written_whole
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec

_FIELDS = {
    "encoder_layers": "num_layers",
    "encoder_embed_dim": "embed_dim",
    "encoder_attention_heads": "num_heads",
    "encoder_ffn_embed_dim": "ffn_dim",
    "layer_norm_first": "norm_first",
    "conv_bias": "conv_bias",
    "conv_pos": "pos_conv_kernel",
    "conv_pos_groups": "pos_conv_groups",
    "relative_position_embedding": "relative_position",
    "num_buckets": "num_buckets",
    "max_distance": "max_distance",
    "gru_rel_pos": "gated_position",
    "normalize": "normalize_waveform",
}
"""`cfg` key -> our field. The other keys configure pre-training (masking, layer drop) or are checked below."""


def _recognise(source: Source) -> bool:
    return "cfg" in source.safetensors[1] or is_microsofts(declared(source))


def _read(source: Source, options: ReadOptions) -> LoadedModel:
    state, metadata = source.safetensors
    cfg = _parse(metadata["cfg"], source.path) if state else declared(source)
    state = state or source.content["model"]
    for name, part in (("cfg", cfg), ("model", state)):
        if not isinstance(part, dict):
            raise UserError(f"{source.path}: `{name}` must be a dict, but is a {type(part).__name__}.")
    with taken_apart(source.path):
        config = from_cfg(cfg, str(source.path))
        ours = KEYS.to_ours(state, config, str(source.path))
    return dense_model(source, config, ours)


def _parse(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: the metadata `cfg` is not JSON ({error}).") from error


def _write(path: Path, encoder: SpeechEncoder, options: WriteOptions) -> None:
    content = checkpoint(encoder)
    with written_whole(path) as temporary:
        write_torch_file(temporary, content, progress=options.progress)


def checkpoint(encoder: SpeechEncoder) -> dict[str, dict]:
    """Content of Microsoft's files for a dense encoder, for `torch.save`.

    Raises:
        UserError: the encoder is pruned or not a WavLM, which the format cannot express.
    """
    if encoder.spec != CompactSpec.dense(encoder.config):
        raise UserError("Microsoft's checkpoint format holds dense encoders only, but this one is pruned.")
    if encoder.config.family != "wavlm":
        raise UserError(f"Microsoft's checkpoint format holds WavLM only, but this is a {encoder.config.family}.")
    return {"cfg": to_cfg(encoder.config), "model": KEYS.to_theirs(encoder.state_dict(), encoder.config)}


def save_safetensors(encoder: SpeechEncoder, path: str | Path, *, dtype: torch.dtype) -> None:
    """Write a dense encoder with Microsoft's names, and with `cfg` as JSON text in the metadata.

    Args:
        encoder: dense.
        path: ends in `.safetensors`; written completely or not at all.
        dtype: type of every tensor in the file.

    Raises:
        UserError: the encoder is pruned, or the file cannot be written.
    """
    path, content = Path(path), checkpoint(encoder)
    partial = path.with_name(f".{path.name}.tmp")
    try:
        write_safetensors(partial, content["model"], dtype=dtype, metadata={"cfg": json.dumps(content["cfg"])})
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: could not be written ({error}). Free space or name another folder.") from error


def from_cfg(cfg: dict, where: str) -> EncoderConfig:
    """Translate the `cfg` of Microsoft's WavLM checkpoint (defaults as in s3prl's `WavLMConfig`).

    Dropout and `feature_grad_mult` keep our defaults, since they belong to training and not to the model.

    Raises:
        UserError: the architecture is not supported.
    """
    defaults = {"relative_position_embedding": False, "gru_rel_pos": False, "max_distance": 1280}
    fields = {ours: cfg[theirs] for theirs, ours in _FIELDS.items() if theirs in cfg}
    for theirs, value in defaults.items():
        fields.setdefault(_FIELDS[theirs], value)
    if cfg.get("activation_fn", "gelu") != "gelu":
        raise UserError(f"{where}: `activation_fn` must be gelu, but is {cfg['activation_fn']!r}.")
    mode = cfg.get("extractor_mode", "default")
    if mode not in EXTRACTOR_MODES:
        raise UserError(f"{where}: `extractor_mode` must be one of {sorted(EXTRACTOR_MODES)}, but is {mode!r}.")
    if "conv_feature_layers" in cfg:
        fields["conv_layers"] = parse_conv_layers(cfg["conv_feature_layers"], where)
    return from_dict(EncoderConfig, {**fields, "extractor_mode": EXTRACTOR_MODES[mode]}, where)


def to_cfg(config: EncoderConfig) -> dict:
    """The `cfg` of Microsoft's checkpoint format for `config`."""
    cfg = {theirs: getattr(config, ours) for theirs, ours in _FIELDS.items()}
    modes = {ours: theirs for theirs, ours in EXTRACTOR_MODES.items()}
    return {
        **cfg,
        "extractor_mode": modes[config.extractor_mode],
        "conv_feature_layers": str([tuple(layer) for layer in config.conv_layers]),
        "activation_fn": "gelu",
        "encoder_layerdrop": 0.0,
    }


FORMAT = Format(
    name="microsoft",
    about="Microsoft's WavLM (`cfg`, `model`; a torch file or safetensors)",
    recognise=_recognise,
    read=_read,
    write=_write,
)
