"""Any model of this project or of a public format into any other: what `tools/export.py` and its neighbour do."""

from collections.abc import Mapping
from pathlib import Path

import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.export.formats import file_sha256, is_huggingface_folder, load_encoder, probe, save_encoder
from s3prl_pruned.export.huggingface import save_huggingface
from s3prl_pruned.export.int8 import is_int8, quantize_int8
from s3prl_pruned.export.onnx import Draft, save_onnx
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.huggingface_folder import folder_of, weight_files
from s3prl_pruned.models.load import load_dense, named_config
from s3prl_pruned.models.save import FORMATS, save_dense
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.models.tensor_files import Progress
from s3prl_pruned.pretrain.asr.recognizer import head_files
from s3prl_pruned.pretrain.finish import compact_student

TARGETS = ("folder", "onnx", *FORMATS)


def convert(source: str | Path, path: str | Path, target: str, *, shape: str | None = None, int8: bool = False) -> str:
    """Load a model and write it in another format, with a bar of the bytes written where that takes over a second.

    Args:
        source, shape: as `load_source`.
        path, target: as `write_target`.
        int8: quantise for inference on a CPU first (`export.int8`); this project's folder only.

    Returns:
        What was written: "hubert, 94,371,712 parameters".

    Raises:
        UserError: as those two, or an int8 encoder is asked for in another format.
    """
    from tqdm import tqdm

    encoder, provenance = load_source(source, shape=shape)
    if (int8 or is_int8(encoder)) and target != "folder":
        raise UserError(f"int8 is written to this project's folder only, not to {target}. Convert the fp32 export instead.")
    about = f"{encoder.config.family}, {encoder.num_parameters():,} parameters"
    if int8:
        encoder, error = _quantised(encoder)
        provenance = {**provenance, "int8_error": round(error, 4)}
        about += f", int8: hidden states differ by {100 * error:.1f} % of their norm on noise"
    with tqdm(total=4 * encoder.num_parameters(), unit="B", unit_scale=True, desc="writing", delay=1) as bar:
        if target == "onnx":
            with Draft(path) as draft:
                draft.write(encoder, progress=bar.update)
                del encoder  # its memory is needed for checking the file
                draft.finish()
        else:
            write_target(path, target, encoder, provenance, progress=bar.update, files=head_files(source))
    return about


def _quantised(encoder: SpeechEncoder) -> tuple[SpeechEncoder, float]:
    """The int8 encoder and its error: norm of the difference over norm, worst hidden state, on `probe`'s noise."""
    small, (wavs, lengths) = quantize_int8(encoder), probe()
    with torch.no_grad():
        pairs = zip(small.encode_raw(wavs, lengths).hidden_states, encoder.encode_raw(wavs, lengths).hidden_states)
        return small, max(float((found - exact).norm() / exact.norm()) for found, exact in pairs)


def load_source(path: str | Path, *, shape: str | None = None) -> tuple[SpeechEncoder, dict]:
    """Load a model to convert.

    Args:
        path: a training checkpoint (`states-*.ckpt`: its masks are cut), an exported folder, or a dense checkpoint in any
            public format.
        shape: the public model whose shape a torchaudio state dict has, such as `hubert_base`.

    Returns:
        The encoder (fp32, CPU, evaluation mode) and its provenance.

    Raises:
        UserError: no such model, or a damaged one.
    """
    path = folder_of(Path(path))
    if path.name.endswith(".ckpt"):
        return compact_student(path)
    if path.is_dir() and not is_huggingface_folder(path):
        return load_encoder(path, for_inference=True)
    encoder = load_dense(path, config=named_config(shape) if shape else None)
    source = {"name": path.name, "sha256": file_sha256(*([path] if path.is_file() else weight_files(path)))}
    return encoder, {"method": "converted, not pruned", "source": source, "teacher_note": None}


def write_target(
    path: str | Path,
    target: str,
    encoder: SpeechEncoder,
    provenance: dict,
    *,
    progress: Progress | None = None,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write a model; whole or not at all, and never over something else.

    Args:
        path: must not exist.
        target: one of `TARGETS`. `folder` is this project's own; `huggingface` is transformers' own model for a dense
            encoder, and one whose code travels along for a pruned one.
        encoder: dense or compact.
        provenance: for the card.
        progress: called with the number of bytes just written.
        files: more files of a `folder`: a CTC head.

    Raises:
        UserError: the format cannot hold the encoder, or the export differs from it.
    """
    dense = encoder.spec == CompactSpec.dense(encoder.config)
    if target == "folder":
        save_encoder(path, encoder, provenance, progress=progress, files=files)
    elif target == "onnx":
        save_onnx(path, encoder, progress=progress)
    elif target == "huggingface" and not dense:
        save_huggingface(path, encoder, provenance, progress=progress)
    elif target in FORMATS:
        save_dense(encoder, path, target, progress=progress)
    else:
        raise UserError(f"the format must be one of {list(TARGETS)}, but is {target!r}.")
