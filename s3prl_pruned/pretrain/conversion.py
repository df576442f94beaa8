"""Any model of this project or of a public format into any other: what `tools/export.py` and its neighbour do."""

from pathlib import Path

import torch

from s3prl_pruned.formats import onnx, whole_whisper
from s3prl_pruned.formats.folder import probe
from s3prl_pruned.formats.format import Format, LoadedModel
from s3prl_pruned.formats.registry import check_int8, read, writable, write
from s3prl_pruned.models import families
from s3prl_pruned.models.accelerate.int8 import is_int8, quantize_int8
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.pretrain.asr.recognizer import head_files
from s3prl_pruned.pretrain.training_checkpoint import CUT
from s3prl_pruned.progress import progress


def convert(
    source: str | Path,
    path: str | Path,
    target: str,
    *,
    shape: str | None = None,
    subnet: str | None = None,
    int8: bool = False,
    cut: Format = CUT,
) -> str:
    """Load a model and write it in another format, with a bar of the bytes written where that takes over a second.

    Args:
        source: as `load_source`.
        path: the new file or folder; must not exist.
        target: the name of a format that is written (`formats.registry`).
        shape: as `load_source`.
        subnet: as `load_source`.
        int8: quantise for inference on a CPU first (`models.accelerate.int8`); this project's folder only.
        cut: as `load_source`.

    Returns:
        What was written: "hubert, 94,371,712 parameters".

    Raises:
        UserError: as `load_source` and `registry.write`, or an int8 encoder is asked for in another format.
    """
    fmt = writable(target)
    loaded = load_source(source, shape=shape, subnet=subnet, cut=cut)
    encoder, provenance = loaded.encoder, loaded.provenance
    del loaded  # the encoder's memory may be given back below
    if int8 or is_int8(encoder):
        check_int8(fmt)
    about = f"{encoder.config.family}, {encoder.num_parameters():,} parameters"
    if int8:
        encoder, error = _quantised(encoder)
        provenance = {**provenance, "int8_error": round(error, 4)}
        about += f", int8: hidden states differ by {100 * error:.1f} % of their norm on noise"
    with progress(total=4 * encoder.num_parameters(), unit="B", unit_scale=True, desc="writing", delay=1) as bar:
        if target == "onnx":
            with onnx.Draft(path) as draft:
                draft.write(encoder, progress=bar.update, provenance=provenance)
                del encoder  # its memory is needed for checking the file
                draft.finish()
        else:
            write(path, target, encoder, provenance, progress=bar.update, files=head_files(source))
    return about


def put_into_whisper(source: str | Path, path: str | Path, original: str | Path) -> str:
    """Write a copy of a whole Whisper with this encoder in it (`formats.whole_whisper`).

    Args:
        source: as `load_source`.
        path: the new file or folder; must not exist.
        original: OpenAI's file, or Hugging Face's folder.

    Returns:
        What was written, as of `convert`.

    Raises:
        UserError: as `load_source` and `whole_whisper.put_back`.
    """
    encoder = load_source(source).encoder
    whole_whisper.put_back(path, encoder, original)
    return f"{encoder.config.family}, an encoder of {encoder.num_parameters():,} parameters in a whole model"


def _quantised(encoder: SpeechEncoder) -> tuple[SpeechEncoder, float]:
    """The int8 encoder and its error: norm of the difference over norm, worst hidden state, on `probe`'s noise."""
    small, (wavs, lengths) = quantize_int8(encoder), probe()
    with torch.no_grad():
        found = small.states(small.encode_raw(wavs, lengths))
        exact = encoder.states(encoder.encode_raw(wavs, lengths))
    return small, max(float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))


def load_source(
    path: str | Path, *, shape: str | None = None, subnet: str | None = None, cut: Format = CUT
) -> LoadedModel:
    """Load a model to convert.

    Args:
        path: a training checkpoint (`states-*.ckpt`: its masks are cut), or anything that `formats.registry` reads.
        shape: the public model whose shape a torchaudio state dict has, such as `hubert_base`.
        subnet: of a LightHuBERT supernet, which of its models is meant.
        cut: how a training checkpoint is read (`training_checkpoint.cut_at`: at another target).

    Raises:
        UserError: no such model, or a damaged one.
    """
    expected = families.named(shape) if shape else None
    return read(path, shape=expected, int8=True, subnet=subnet, also=(cut,))
