"""Our folder format: `model.safetensors`, `config.json` (shape, kept structure and provenance), `README.md`.

A folder is written under a temporary name and then renamed, so that it exists completely or not at all. int8 encoders
use the same format, with an entry in `config.json`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from s3prl_pruned.checkpoint import sync
from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.formats.card import model_card
from s3prl_pruned.formats.format import (
    CONFIG,
    SAFETENSORS,
    Format,
    LoadedModel,
    ReadOptions,
    Source,
    WriteOptions,
    taken_apart,
)
from s3prl_pruned.formats.huggingface_weights import read_weights, weight_files
from s3prl_pruned.formats.keys import FIRST_KERNEL, unwrapped
from s3prl_pruned.formats.tensor_files import (
    Progress,
    check_readable,
    file_sha256,
    write_safetensors,
    written_whole,
)
from s3prl_pruned.models.accelerate import accelerate
from s3prl_pruned.models.accelerate.int8 import is_int8, quantize_int8
from s3prl_pruned.models.encoder import SpeechEncoder, freeze_idle
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec

MARK, VERSION = "s3prl_pruned.encoder", 1
"""Values of `format` and `format_version` in `config.json`."""
TOLERANCE = 2e-5  # fp32, relative to max(1, largest value) of each hidden state
WEIGHTS, CARD = SAFETENSORS, "README.md"


def save_encoder(
    folder: str | Path,
    encoder: SpeechEncoder,
    provenance: dict,
    *,
    progress: Progress | None = None,
    files: Mapping[str, bytes] | None = None,
    prefix: str = "",
    more: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write an encoder, dense or compact, with its card.

    Args:
        folder: must not exist yet: an export is never overwritten.
        encoder: its slots must be empty; fold masks first (`export.masks.export_compact`). A result of
            `models.accelerate.int8.quantize_int8` is written in int8.
        provenance: JSON data on the model's origin; `formats.card` lists the keys that the card shows.
        progress: called with the number of bytes just written.
        files: further files of the folder, such as the head of a task (`pretrain/one_pass/head_files.py`).
        prefix: prefix of the encoder's names in the weights file.
        more: further tensors of that file, by their full names.

    Raises:
        UserError: the folder exists, or cannot be written.
    """
    config = {
        "format": MARK,
        "format_version": VERSION,
        "encoder": to_dict(encoder.config),
        "spec": encoder.spec.to_dict(),
        "provenance": provenance,
        **({"precision": "int8"} if is_int8(encoder) else {}),
    }
    named = {**{prefix + name: tensor for name, tensor in encoder.state_dict().items()}, **(more or {})}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
    with written_whole(Path(folder)) as temporary:
        temporary.mkdir()
        write_safetensors(temporary / WEIGHTS, state, progress=progress)
        (temporary / CONFIG).write_text(json.dumps(config) + "\n", encoding="utf-8")
        (temporary / CARD).write_text(model_card(encoder, provenance, model_hash(temporary)), encoding="utf-8")
        for name, data in (files or {}).items():
            (temporary / name).write_bytes(data)
        for name in (WEIGHTS, CONFIG, CARD, *(files or ())):
            sync(temporary / name)


def load_encoder(folder: str | Path, *, for_inference: bool = False) -> tuple[SpeechEncoder, dict]:
    """Read a folder written by `save_encoder`.

    Args:
        folder: the exported folder.
        for_inference: use the fast forms of the blocks (`accelerate`), and accept int8 exports.

    Returns:
        The encoder (CPU, evaluation mode; fp32, or int8 inside) and its provenance. For fine-tuning, all parameters
        that can get a gradient require one (`freeze_idle`).

    Raises:
        UserError: a file is missing, damaged or does not fit the other, or the export is int8 without `for_inference`.
    """
    encoder, provenance = _load(Path(folder), int8=for_inference)
    if for_inference:
        return accelerate(encoder), provenance
    freeze_idle(encoder)
    return encoder, provenance


def _load(folder: Path, *, int8: bool, state: Mapping[Any, Any] | None = None) -> tuple[SpeechEncoder, dict]:
    config = read_config(folder / CONFIG)
    where = str(folder / CONFIG)
    with taken_apart(folder):
        shape = from_dict(EncoderConfig, config["encoder"], where)
        spec = from_dict(CompactSpec, config["spec"], where)
        spec.check(shape)
    if config.get("precision") == "int8" and not int8:
        raise UserError(f"{folder}: is int8, which is for inference only. Name the fp32 export from which it was made.")
    state = unwrapped(_read_state(folder) if state is None else state, FIRST_KERNEL, str(folder))
    encoder = encoder_for(shape, spec, state, where)
    if config.get("precision") == "int8":
        encoder = quantize_int8(encoder)
    try:
        weights = {name: tensor if tensor.dtype == torch.int8 else tensor.float() for name, tensor in state.items()}
        encoder.load_state_dict(weights, assign=True)  # without a second copy in memory
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise UserError(f"{folder}: {WEIGHTS} does not fit {CONFIG}: {' '.join(lines[1:3]).strip()}") from error
    return encoder.eval(), config["provenance"]


def _read_state(folder: Path) -> dict[str, torch.Tensor]:
    if (folder / WEIGHTS).is_file():
        check_readable(folder / WEIGHTS)
    try:
        return read_weights(folder)  # transformers may have saved it again, as several files
    except UserError as error:
        raise UserError(f"{folder / WEIGHTS}: is missing or damaged. {error}") from error


def encoder_for(
    shape: EncoderConfig, spec: CompactSpec, weights: Mapping[str, torch.Tensor], where: str
) -> SpeechEncoder:
    """An encoder for given weights, in evaluation mode, without values.

    Args:
        shape: dense shape.
        spec: kept structure.
        weights: the weights; a damaged shape that is far larger must not allocate memory.
        where: name of the file with the shape, in messages.

    Raises:
        UserError: shape and spec are not an encoder, or its size differs from that of the weights.
    """
    try:
        with torch.device("meta"):
            described = SpeechEncoder(shape, spec).num_parameters()
    except RuntimeError as error:  # sizes too large for torch
        raise UserError(f"{where}: is not a valid encoder ({str(error).splitlines()[0]}). Copy it again.") from error
    held = sum(weight.numel() for weight in weights.values())
    if described > 2 * held + 1000:
        raise UserError(f"{where}: describes {described:,} parameters, but the weights are {held:,}. Copy it again.")
    return SpeechEncoder(shape, spec).eval()


def read_config(path: Path) -> dict:
    """Read the `config.json` of an exported folder: `encoder`, `spec` and `provenance` as plain data.

    Raises:
        UserError: the file is missing, damaged, or from another program.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path.parent}: is not an exported encoder: {CONFIG} cannot be read ({error}).") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is damaged, not JSON ({error}). Copy the folder again.") from error
    if not isinstance(config, dict) or config.get("format") != MARK:
        raise UserError(f"{path}: `format` must be {MARK!r}. Is this another program's folder?")
    if config.get("format_version") != VERSION:
        raise UserError(
            f"{path}: `format_version` must be {VERSION}, but is {config.get('format_version')}. "
            "Use the version of s3prl_pruned that wrote it."
        )
    missing = [key for key in ("encoder", "spec", "provenance") if not isinstance(config.get(key), dict)]
    if missing:
        raise UserError(f"{path}: lacks {missing}. Copy the folder again.")
    return config


def model_hash(folder: str | Path) -> str:
    """Identifier of an exported model: SHA-256 of its weights file (of several files, over all of them in order)."""
    return file_sha256(*weight_files(Path(folder)))


def probe(*, scale: float = 1, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise for comparing exports: waveforms (batch, scale x 16000), zero-padded, and their lengths (batch,)."""
    generator = torch.Generator().manual_seed(batch)
    samples = int(16_000 * scale)
    lengths = torch.tensor([samples - i * samples // 3 for i in range(batch)])
    wavs = torch.randn(batch, samples, generator=generator) * 0.1
    return wavs.masked_fill(torch.arange(samples) >= lengths[:, None], 0.0), lengths


def relative_difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Largest difference over all hidden states, relative to max(1, largest value) of each expected state."""
    pairs = zip(found, expected, strict=True)
    # torch's max propagates NaN, Python's may not
    return float(torch.stack([(x - y).abs().max() / y.abs().max().clamp(min=1) for x, y in pairs]).max())


def recognise(source: Source) -> bool:
    """Whether it is a folder written by any version of `save_encoder`, or a weights file in one."""
    if not source.is_folder and not any(f".{key}".endswith(f".{FIRST_KERNEL}") for key in source.weights):
        return False
    return (source.json(CONFIG) or {}).get("format") == MARK


def _read(source: Source, options: ReadOptions) -> LoadedModel:
    state = None if source.is_folder else source.weights
    encoder, provenance = _load(source.folder, int8=options.int8, state=state)
    sha256 = model_hash(source.path) if source.is_folder else file_sha256(source.path)
    return LoadedModel(encoder, source.path, sha256, provenance)


def _write(path: Path, encoder: SpeechEncoder, options: WriteOptions) -> None:
    save_encoder(path, encoder, dict(options.provenance), progress=options.progress, files=options.files)


FORMAT = Format(
    name="folder",
    about="an exported folder of this project, or a trainer's checkpoint beside its config.json",
    recognise=recognise,
    read=_read,
    write=_write,
    holds_pruned=True,
    holds_int8=True,
)
