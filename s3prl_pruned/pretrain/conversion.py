"""Convert models of this project or of public formats into each other, for `tools/export.py` and `tools/convert.py`."""

from pathlib import Path

import torch

from s3prl_pruned.formats import onnx, whole_whisper
from s3prl_pruned.formats.folder import probe
from s3prl_pruned.formats.format import Format, LoadedModel
from s3prl_pruned.formats.registry import check_int8, read, writable, write
from s3prl_pruned.models import families
from s3prl_pruned.models.accelerate.int8 import is_int8, quantize_int8
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.pretrain.objectives import head_files
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
    """Load a model and write it in another format, with a progress bar if writing takes more than a second.

    Args:
        source: as in `load_source`.
        path: the new file or folder; must not exist.
        target: name of the format to write (`formats.registry`).
        shape: as in `load_source`.
        subnet: as in `load_source`.
        int8: quantise for inference on a CPU first (`models.accelerate.int8`); for this project's folder only.
        cut: as in `load_source`.

    Returns:
        A description of the result, such as "hubert, 94,371,712 parameters".

    Raises:
        UserError: as in `load_source` and `registry.write`, or int8 is requested for another format.
    """
    fmt = writable(target)
    loaded = load_source(source, shape=shape, subnet=subnet, cut=cut)
    encoder, provenance = loaded.encoder, loaded.provenance
    del loaded  # so that the memory of the encoder can be freed below
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
                del encoder  # the check of the file needs its memory
                draft.finish()
        else:
            write(path, target, encoder, provenance, progress=bar.update, files=head_files(source))
    return about


def put_into_whisper(source: str | Path, path: str | Path, original: str | Path) -> str:
    """Write a copy of a whole Whisper model with this encoder in it (`formats.whole_whisper`).

    Args:
        source: as in `load_source`.
        path: the new file or folder; must not exist.
        original: OpenAI's file, or a folder of Hugging Face.

    Returns:
        A description of the result, as in `convert`.

    Raises:
        UserError: as in `load_source` and `whole_whisper.put_back`.
    """
    encoder = load_source(source).encoder
    whole_whisper.put_back(path, encoder, original)
    return f"{encoder.config.family}, an encoder of {encoder.num_parameters():,} parameters in a whole model"


def _quantised(encoder: SpeechEncoder) -> tuple[SpeechEncoder, float]:
    """The int8 encoder and its error on `probe`'s noise: norm of the difference / norm, largest over hidden states."""
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
        path: a training checkpoint (`states-*.ckpt`, whose masks are cut), or any model that `formats.registry` reads.
        shape: for a torchaudio state dict, the public model that has its shape, such as `hubert_base`.
        subnet: for a LightHuBERT supernet, the subnet to load.
        cut: how to read a training checkpoint (`training_checkpoint.cut_at`: at another target).

    Raises:
        UserError: there is no such model, or it is damaged.
    """
    expected = families.named(shape) if shape else None
    return read(path, shape=expected, int8=True, subnet=subnet, also=(cut,))
