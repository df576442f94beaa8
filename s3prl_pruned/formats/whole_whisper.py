"""Put a Whisper encoder back into the model that it was taken from: OpenAI's file, or Hugging Face's folder.

Both have one size for all layers. So a pruned encoder is written as large as the dense one, with zeros in place of
removed units: the same function, for any program that decodes.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import huggingface_whisper, whisper
from s3prl_pruned.formats.format import SAFETENSORS, Source
from s3prl_pruned.formats.huggingface_weights import read_weights, weight_files
from s3prl_pruned.formats.tensor_files import write_safetensors, write_torch_file, written_whole
from s3prl_pruned.models.accelerate.int8 import is_int8
from s3prl_pruned.models.compact import whole
from s3prl_pruned.models.encoder import SpeechEncoder


def put_back(path: str | Path, encoder: SpeechEncoder, original: str | Path) -> None:
    """Write a copy of a whole Whisper model with this encoder in it, in fp32; everything else is unchanged.

    Args:
        path: the new file (as OpenAI's) or folder (as Hugging Face's); must not exist.
        encoder: dense or pruned, with empty slots.
        original: the whole model, with the same dense size.

    Raises:
        UserError: `original` is neither of these, or of another size; the encoder is not Whisper's, or is int8; `path`
            exists or cannot be written.
    """
    source = Source(original)
    of_openai, of_transformers = (fmt.FORMAT.recognise(source) for fmt in (whisper, huggingface_whisper))
    if not of_openai and not (of_transformers and source.is_folder):
        raise UserError(
            f"{source.path}: must be OpenAI's Whisper checkpoint or a Hugging Face folder of Whisper, into which the "
            "encoder is put back, but is neither."
        )
    if encoder.config.front_end != "log_mel" or is_int8(encoder):
        kind = "an int8" if is_int8(encoder) else f"a {encoder.config.family}"
        raise UserError(f"only Whisper's fp32 encoder can be put back into {source.path}, but this is {kind} one.")
    if encoder.config.time_reduction is not None:
        raise UserError(
            f"{source.path}: must hold one frame rate for all layers, but this encoder's `time_reduction` lowers it."
        )
    table = whisper.KEYS if of_openai else huggingface_whisper.KEYS
    state = whole(encoder).state_dict()
    ours = {theirs: state[mine].contiguous() for theirs, mine in table.keys(encoder.config).items()}
    with written_whole(Path(path)) as temporary:
        if of_openai:
            weights = _replaced(source.weights, ours, source.path)
            write_torch_file(temporary, {**source.content, "model_state_dict": weights})
            return
        weights = _replaced(read_weights(source.path), ours, source.path)
        parts = {file.name for file in weight_files(source.path)}
        leave = [*parts, "*.index.json", "*.safetensors", "*.bin"]
        shutil.copytree(source.path, temporary, ignore=shutil.ignore_patterns(*leave))
        write_safetensors(temporary / SAFETENSORS, weights)


def _replaced(weights: Mapping[Any, Any], ours: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """All weights of the original, with the encoder's replaced by ours.

    Raises:
        UserError: its encoder has other weights, or weights of other shapes.
    """
    first = next(theirs for theirs in ours if theirs.endswith("conv1.weight"))
    odd = next(
        (key for key, value in weights.items() if not (isinstance(key, str) and isinstance(value, Tensor))), None
    )
    prefix = next((key for key in weights if f".{key}".endswith(f".{first}")), None)
    if odd is not None or prefix is None:
        raise UserError(
            f"{where}: is damaged: {f'`{odd}` is no tensor' if prefix else f'lacks `{first}`'}. Copy it again."
        )
    prefix = prefix.removesuffix(first)
    inside = f"{prefix}encoder."
    theirs = {key.removeprefix(prefix) for key in weights if key.startswith(inside)}
    if theirs != ours.keys():
        name = min(theirs ^ ours.keys())
        raise UserError(f"{where}: `{name}` must be in both this file and the encoder: their sizes differ.")
    for name, value in ours.items():
        if weights[prefix + name].shape != value.shape:
            raise UserError(
                f"{where}: `{name}` must have shape {tuple(value.shape)} for this encoder, but has "
                f"{tuple(weights[prefix + name].shape)}. Name the model that the encoder was pruned from."
            )
    return {**weights, **{prefix + name: value for name, value in ours.items()}}
