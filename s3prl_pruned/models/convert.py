"""Microsoft's checkpoint format of WavLM, which s3prl uses too (`models/load.py` reads it)."""

import json
import os
from pathlib import Path

import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.models import families
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.keys import to_theirs
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.models.tensor_files import read_safetensors, write_safetensors


def official_checkpoint(encoder: SpeechEncoder) -> dict:
    """Microsoft's checkpoint format of a dense encoder, for `torch.save`.

    Raises:
        UserError: the encoder is pruned or no WavLM, which that format cannot say.
    """
    if encoder.spec != CompactSpec.dense(encoder.config):
        raise UserError("Microsoft's checkpoint format holds dense encoders only, but this one is pruned.")
    if encoder.config.family != "wavlm":
        raise UserError(f"Microsoft's checkpoint format holds WavLM only, but this is a {encoder.config.family}.")
    return {
        "cfg": families.to_official(encoder.config),
        "model": to_theirs(encoder.state_dict(), encoder.config, "official"),
    }


def save_official_safetensors(encoder: SpeechEncoder, path: str | Path, *, dtype: torch.dtype) -> None:
    """Write a dense encoder under Microsoft's names, `cfg` as JSON text in the metadata: what `load.load_dense` reads.

    Args:
        encoder: dense.
        path: ends in `.safetensors`; there whole or not at all.
        dtype: of every tensor in the file.

    Raises:
        UserError: the encoder is pruned, or the file cannot be written.
    """
    path = Path(path)
    checkpoint = official_checkpoint(encoder)
    partial = path.with_name(f".{path.name}.tmp")
    try:
        write_safetensors(partial, checkpoint["model"], dtype=dtype, metadata={"cfg": json.dumps(checkpoint["cfg"])})
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: could not be written ({error}). Free space or name another folder.") from error


def read_official_safetensors(path: Path) -> dict:
    """What `save_official_safetensors` wrote: `cfg` as a dict (absent where the file has none) and `model`."""
    model, metadata = read_safetensors(path)
    try:
        return {name: json.loads(metadata[name]) for name in ("cfg",) if name in metadata} | {"model": model}
    except ValueError as error:
        raise UserError(f"{path}: the metadata `cfg` is not JSON ({error}).") from error
