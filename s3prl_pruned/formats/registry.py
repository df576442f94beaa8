"""The checkpoint formats, in one list: what a path is, is decided here and nowhere else.

A new format is a file that ends in a `Format`, its line in `formats.WRITES`, and its test.
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
from s3prl_pruned.models.spec import CompactSpec, EncoderConfig

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
    """Read an encoder from a file or folder of any known format. Nothing of the file is run.

    Args:
        path: the file or folder; a file of a folder stands for it.
        shape: for a format that does not say it (torchaudio's); of other files, what is expected.
        dense: `ReadOptions.dense`.
        int8: whether an int8 encoder will do, which serves inference only.
        subnet: of a supernet (`lighthubert`), which of its models is meant.
        also: formats that are looked for before those of the list.

    Raises:
        UserError: no such file, damaged, malicious, of no known format, or another family, architecture or size.
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
    """Write an encoder; whole or not at all, and never over something else.

    Args:
        path: the new file or folder; must not exist.
        name: of the format.
        encoder: dense, pruned or int8; on the CPU, its slots empty.
        provenance: JSON data on where the model comes from, for a format that has a place for it.
        progress: called with the number of bytes just written.
        files: more files, for a format that has a place for them (a CTC head in `folder`).

    Raises:
        UserError: the format cannot hold the encoder, `path` exists or cannot be written, or what was written is found
            to compute something else.
    """
    fmt = writable(name)
    if encoder.spec != CompactSpec.dense(encoder.config) and not fmt.holds_pruned:
        raise UserError(
            f"the format {name} holds dense encoders only, but this one is pruned. Use tools/export.py for it."
        )
    if is_int8(encoder):
        check_int8(fmt)
    assert fmt.write is not None, "`writable` says so"
    fmt.write(Path(path), encoder, WriteOptions(provenance=provenance or {}, files=files or {}, progress=progress))


def writable(name: str) -> Format:
    """The format of this name.

    Raises:
        UserError: there is none that is written.
    """
    names = {fmt.name: fmt for fmt in FORMATS if fmt.write}
    if name not in names:
        raise UserError(f"the format must be one of {list(names)}, but is {name!r}.")
    return names[name]


def check_int8(fmt: Format) -> None:
    """Raise a `UserError` where a format cannot hold an int8 encoder."""
    if not fmt.holds_int8:
        raise UserError(
            f"int8 is written to this project's folder only, not to {fmt.name}. Convert the fp32 export instead."
        )


def _check_expected(declared: EncoderConfig, expected: EncoderConfig, path: Path) -> None:
    unseen = {"dropout", "attention_dropout", "activation_dropout", "feature_grad_mult"}  # training's, not the model's
    if not declared.relative_position:
        unseen |= {"num_buckets", "max_distance"}
    changed = {
        name: (value, getattr(expected, name))
        for name, value in vars(declared).items()
        if name not in unseen and value != getattr(expected, name)
    }
    if changed:
        texts = [f"`{name}` is {found!r} and must be {wanted!r}" for name, (found, wanted) in changed.items()]
        raise UserError(f"{path}: is another model than the one named: {'; '.join(texts[:4])}.")
