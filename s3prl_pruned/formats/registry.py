"""List of the checkpoint formats. Only this file decides which format a path has.

A new format needs a file that ends with a `Format`, a line in `formats.WRITES`, and a test.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import WRITES
from s3prl_pruned.formats.format import Format, LoadedModel, ReadOptions, Source, WriteOptions
from s3prl_pruned.formats.tensor_files import Progress
from s3prl_pruned.models.accelerate.int8 import is_int8
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec

FORMATS: tuple[Format, ...] = tuple(import_module(f"s3prl_pruned.formats.{name}").FORMAT for name in WRITES)


def read(
    path: str | Path,
    *,
    shape: EncoderConfig | None = None,
    dense: EncoderConfig | None = None,
    int8: bool = False,
    subnet: str | None = None,
    also: Sequence[Format] = (),
) -> LoadedModel:
    """Read an encoder from a file or folder of any known format. No code from the file is run.

    Args:
        path: the file or folder; a file of a folder also means the folder.
        shape: for a format that does not contain it (torchaudio's), the shape; for others, the expected shape.
        dense: see `ReadOptions.dense`.
        int8: whether an int8 encoder, which is for inference only, is acceptable.
        subnet: the subnet of a supernet (`lighthubert`).
        also: formats that are tried before those of the list.

    Raises:
        UserError: there is no such file, or it is damaged, malicious, in an unknown format, or not the expected model.
    """
    source, formats = Source(path), (*also, *FORMATS)
    found = next((fmt for fmt in formats if fmt.recognise(source)), None)
    readable = "; ".join(fmt.about for fmt in formats if fmt.read)
    if found is None:
        raise UserError(f"{source.path}: is in no known format; it holds {source.holds()}. Readable are: {readable}.")
    if found.read is None:
        raise UserError(f"{source.path}: is {found.about}, which is only written. Readable are: {readable}.")
    if subnet is not None and not found.holds_supernets:
        raise UserError(f"{source.path}: is {found.about}, which has no subnets. Leave `subnet` out.")
    loaded = found.read(source, ReadOptions(shape=shape, dense=dense, int8=int8, subnet=subnet))
    if shape is not None:
        _check_expected(loaded.encoder.config, shape, source.path)
    return loaded


def write(
    path: str | Path,
    name: str,
    encoder: SpeechEncoder,
    provenance: Mapping[str, Any] | None = None,
    *,
    progress: Progress | None = None,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write an encoder, completely or not at all, and never over an existing file.

    Args:
        path: the new file or folder; must not exist.
        name: name of the format.
        encoder: dense, pruned or int8; on the CPU, with empty slots.
        provenance: JSON data on the model's origin, for formats that can store it.
        progress: called with the number of bytes just written.
        files: further files, for formats that can store them (a CTC head in `folder`).

    Raises:
        UserError: the format cannot store the encoder, `path` exists or cannot be written, or the written file gives
            other hidden states.
    """
    fmt = writable(name)
    if encoder.spec != CompactSpec.dense(encoder.config) and not fmt.holds_pruned:
        raise UserError(
            f"the format {name} holds dense encoders only, but this one is pruned. Use tools/export.py for it."
        )
    if is_int8(encoder):
        check_int8(fmt)
    assert fmt.write is not None, "checked by `writable`"
    fmt.write(Path(path), encoder, WriteOptions(provenance=provenance or {}, files=files or {}, progress=progress))


def writable(name: str) -> Format:
    """The format with this name.

    Raises:
        UserError: there is no such format, or it is only read.
    """
    names = {fmt.name: fmt for fmt in FORMATS if fmt.write}
    if name not in names:
        raise UserError(f"the format must be one of {list(names)}, but is {name!r}.")
    return names[name]


def check_int8(fmt: Format) -> None:
    """Raise a `UserError` if a format cannot store an int8 encoder."""
    if not fmt.holds_int8:
        raise UserError(
            f"int8 is written to this project's folder only, not to {fmt.name}. Convert the fp32 export instead."
        )


def _check_expected(declared: EncoderConfig, expected: EncoderConfig, path: Path) -> None:
    unseen = {"dropout", "attention_dropout", "activation_dropout", "feature_grad_mult"}  # settings of training
    if not declared.relative_position:
        unseen |= {"num_buckets", "max_distance"}
    changed = {
        name: (value, getattr(expected, name))
        for name, value in vars(declared).items()
        if name not in unseen and value != getattr(expected, name)
    }
    if changed:
        texts = [f"`{name}` is {found!r} and must be {wanted!r}" for name, (found, wanted) in changed.items()]
        raise UserError(f"{path}: is not the named model: {'; '.join(texts[:4])}.")
