"""torchaudio's state dicts, which do not contain their shape or a mask embedding (used in pre-training only)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import dphubert_structure
from s3prl_pruned.formats.format import Format, LoadedModel, ReadOptions, Source, WriteOptions, dense_model, taken_apart
from s3prl_pruned.formats.keys import NEW_WEIGHT_NORM, KeyTable
from s3prl_pruned.formats.tensor_files import write_torch_file, written_whole
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig

_CNN, _LAYER = "feature_extractor.conv_layers.{c}.", "encoder.transformer.layers.{i}."


def _spell(prefix: str, config: EncoderConfig) -> str:
    """Its WavLM wraps `nn.MultiheadAttention`."""
    wrapped = config.family == "wavlm" and prefix.endswith("_proj.")
    return prefix.replace(".attention.", ".attention.attention.") if wrapped else prefix


def _split(state: dict[str, Any]) -> dict[str, Any]:
    """Split query, key and value, which its WavLM holds as one matrix: (3D, D) -> three of (D, D)."""
    split: dict[str, Any] = {}
    for key, value in state.items():
        stem, found, kind = key.partition("in_proj_")
        if found and isinstance(value, Tensor):
            names = (f"{stem}{name}_proj.{kind}" for name in "qkv")
            split.update(zip(names, value.chunk(3), strict=False))  # if there are fewer, keys will be missing
        else:
            split[key] = value
    return split


def _fuse(state: dict[str, Tensor]) -> dict[str, Tensor]:
    fused = dict(state)
    for key in state:
        stem, found, kind = key.partition("q_proj.")
        if found and stem.endswith(".attention.attention."):
            fused[f"{stem}in_proj_{kind}"] = torch.cat([fused.pop(f"{stem}{name}_proj.{kind}") for name in "qkv"])
    return fused


KEYS = KeyTable(
    name="torchaudio",
    parts={
        "mask_embedding": None,
        "feature_extractor.layers.{c}.conv.": _CNN + "conv.",
        "feature_extractor.layers.{c}.norm.": _CNN + "layer_norm.",
        "feature_projection.layer_norm.": "encoder.feature_projection.layer_norm.",
        "feature_projection.projection.": "encoder.feature_projection.projection.",
        "positional_convolution.conv.": "encoder.transformer.pos_conv_embed.conv.",
        "positional_convolution.convs.{p}.": None,
        "relative_position.embedding.": "encoder.transformer.layers.0.attention.rel_attn_embed.",
        "layers.{i}.attention.gate.projection.": _LAYER + "attention.gru_rel_pos_linear.",
        "layers.{i}.attention.gate.scale": _LAYER + "attention.gru_rel_pos_const",
        "layers.{i}.attention.q_proj.": _LAYER + "attention.q_proj.",
        "layers.{i}.attention.k_proj.": _LAYER + "attention.k_proj.",
        "layers.{i}.attention.v_proj.": _LAYER + "attention.v_proj.",
        "layers.{i}.attention.out_proj.": _LAYER + "attention.out_proj.",
        "layers.{i}.attention_layer_norm.": _LAYER + "layer_norm.",
        "layers.{i}.feed_forward.fc1.": _LAYER + "feed_forward.intermediate_dense.",
        "layers.{i}.feed_forward.fc2.": _LAYER + "feed_forward.output_dense.",
        "layers.{i}.final_layer_norm.": _LAYER + "final_layer_norm.",
        "layer_norm.": "encoder.transformer.layer_norm.",
    },
    weight_norm=NEW_WEIGHT_NORM,
    heads=("mask_generator.", "logit_generator."),
    task_heads=("aux.",),  # of its fine-tuned models
    spell=_spell,
    split=_split,
    fuse=_fuse,
)


def _recognise(source: Source) -> bool:
    its_names = any(".encoder.transformer.layers." in f".{key}" for key in source.weights)
    return its_names and not dphubert_structure.declares(source)


def _read(source: Source, options: ReadOptions) -> LoadedModel:
    if options.shape is None:
        raise UserError(
            f"{source.path}: is a torchaudio state dict, which does not say its shape. Name it, such as hubert_base."
        )
    with taken_apart(source.path):
        state = KEYS.to_ours(source.weights, options.shape, str(source.path))
    return dense_model(source, options.shape, state)


def _write(path: Path, encoder: SpeechEncoder, options: WriteOptions) -> None:
    state = KEYS.to_theirs(encoder.state_dict(), encoder.config)
    with written_whole(path) as temporary:
        write_torch_file(temporary, state, progress=options.progress)


FORMAT = Format(
    name="torchaudio",
    about="a torchaudio state dict (its shape must be named)",
    recognise=_recognise,
    read=_read,
    write=_write,
)
