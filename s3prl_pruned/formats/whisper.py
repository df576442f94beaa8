"""OpenAI's Whisper checkpoints, `{"dims": ..., "model_state_dict": ...}`, of which only the encoder is read."""

from typing import Any

from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.formats.format import Format, LoadedModel, ReadOptions, Source, dense_model, taken_apart
from s3prl_pruned.formats.keys import NEW_WEIGHT_NORM, KeyTable
from s3prl_pruned.models.families import whisper
from s3prl_pruned.models.shape import EncoderConfig

_BLOCK = "encoder.blocks.{i}."

KEYS = KeyTable(
    name="whisper",
    parts={
        "mask_embedding": None,
        "feature_extractor.layers.0.conv.": "encoder.conv1.",
        "feature_extractor.layers.1.conv.": "encoder.conv2.",
        "positional_convolution.embedding": "encoder.positional_embedding",
        "layers.{i}.attention.q_proj.": _BLOCK + "attn.query.",
        "layers.{i}.attention.k_proj.": _BLOCK + "attn.key.",
        "layers.{i}.attention.v_proj.": _BLOCK + "attn.value.",
        "layers.{i}.attention.out_proj.": _BLOCK + "attn.out.",
        "layers.{i}.attention_layer_norm.": _BLOCK + "attn_ln.",
        "layers.{i}.feed_forward.fc1.": _BLOCK + "mlp.0.",
        "layers.{i}.feed_forward.fc2.": _BLOCK + "mlp.2.",
        "layers.{i}.final_layer_norm.": _BLOCK + "mlp_ln.",
        "layer_norm.": "encoder.ln_post.",
    },
    weight_norm=NEW_WEIGHT_NORM,
    heads=("decoder.",),
)
_DIMS = {
    "n_audio_layer": "num_layers",
    "n_audio_state": "embed_dim",
    "n_audio_head": "num_heads",
    "n_mels": "mel_bins",
    "n_audio_ctx": "max_frames",
}


def _recognise(source: Source) -> bool:
    content = source.content
    return "dims" in content and any(f".{key}".endswith(".encoder.conv1.weight") for key in source.weights)


def _read(source: Source, options: ReadOptions) -> LoadedModel:
    with taken_apart(source.path):
        config = from_sizes(source.content["dims"], _DIMS, f"{source.path}: `dims`")
        state = KEYS.to_ours(source.weights, config, str(source.path))
    return dense_model(source, config, state)


def from_sizes(sizes: Any, names: dict[str, str], where: str) -> EncoderConfig:
    """Configuration of Whisper's encoder from the sizes in a file.

    Args:
        sizes: sizes in the file, by its names.
        names: the file's names of `num_layers`, `embed_dim`, `num_heads`, `mel_bins`, `max_frames`, and of `ffn_dim` if
            it has that (else it is 4 D).
        where: name of the file in messages.

    Raises:
        UserError: a size is missing, not an integer, or out of range.
    """
    missing = [name for name in names if name not in sizes]
    if missing:
        raise UserError(f"{where}: lacks {missing[0]!r}. Copy or download the file again.")
    found = {ours: sizes[theirs] for theirs, ours in names.items()}
    for theirs, ours in names.items():
        if isinstance(found[ours], bool) or not isinstance(found[ours], int):
            raise UserError(f"{where}: `{theirs}` must be a whole number, but is {str(found[ours])[:60]!r}.")
    max_frames = found.pop("max_frames")
    return from_dict(EncoderConfig, {**to_dict(whisper(**found)), "max_frames": max_frames}, where)


FORMAT = Format(
    name="whisper",
    about="OpenAI's Whisper checkpoint (only its encoder is read)",
    recognise=_recognise,
    read=_read,
)
