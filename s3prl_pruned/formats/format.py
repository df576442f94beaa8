"""Interface of a checkpoint format: how files are recognised, and how an encoder is read from or written to them."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.keys import weights_of
from s3prl_pruned.formats.tensor_files import Progress, check_readable, file_sha256, read_safetensors
from s3prl_pruned.formats.unpickle import read_torch_file
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec

CONFIG, SAFETENSORS, PICKLED = "config.json", "model.safetensors", "pytorch_model.bin"
_FOLDER_FILES = (CONFIG, SAFETENSORS, PICKLED, f"{SAFETENSORS}.index.json", f"{PICKLED}.index.json")


class Source:
    """A file or folder to read. Its content is opened once, however many formats inspect it.

    Args:
        path: file or folder; a folder's `config.json`, weights or index also mean the folder.

    Attributes:
        path: the file or folder.
        folder: the folder itself, or the folder of the file (a configuration may be beside the weights).

    Raises:
        UserError: there is no such file or folder.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        if not path.exists():
            raise UserError(f"{path}: no such file or folder. Name an existing checkpoint.")
        of_folder = path.name in _FOLDER_FILES and (path.parent / CONFIG).is_file()
        self.path = path.parent if of_folder else path
        self.folder = self.path if self.path.is_dir() else self.path.parent
        self._json: dict[str, dict[str, Any] | None] = {}

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.path.is_dir()

    @property
    def suffix(self) -> str:
        """Suffix of the file. s3prl names a downloaded file after its URL; the part from `?` on is ignored."""
        return Path(self.path.name.split("?")[0]).suffix

    @cached_property
    def content(self) -> dict:
        """Content of a torch file (`unpickle.read_torch_file`); empty for a folder and other kinds of files.

        Raises:
            UserError: the file is damaged, or names a class that no checkpoint needs.
        """
        return {} if self.is_folder or self.suffix in (".safetensors", ".onnx") else read_torch_file(self.path)

    @cached_property
    def safetensors(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tensors and metadata of a single safetensors file; empty for anything else.

        Raises:
            UserError: the file is damaged.
        """
        return read_safetensors(self.path) if not self.is_folder and self.suffix == ".safetensors" else ({}, {})

    @property
    def weights(self) -> Mapping[Any, Any]:
        """State dict of a single file, also of a trainer's checkpoint (`keys.weights_of`); empty for a folder.

        Raises:
            UserError: as in `content` and `safetensors`.
        """
        return self.safetensors[0] or weights_of(self.content)

    def json(self, name: str = CONFIG) -> dict[str, Any] | None:
        """A JSON object in the folder, or beside the file; None if there is no such file.

        Raises:
            UserError: the file cannot be read, is damaged, or is not a JSON object.
        """
        if name not in self._json:
            self._json[name] = _read_json(self.folder / name)
        return self._json[name]

    def holds(self) -> list[str]:
        """Names of the first parts, for messages."""
        names = (path.name for path in self.path.iterdir()) if self.is_folder else (*self.content, *self.safetensors[0])
        return [str(name)[:60] for name in names][:5]


@contextmanager
def taken_apart(path: Path) -> Iterator[None]:
    """Turn errors in translating a file's configuration into a `UserError` about the file.

    Use it for the translation only. Elsewhere, such an error is a bug of this package and must be visible as one.

    Args:
        path: the file or folder.

    Raises:
        UserError: a value is missing, or has the wrong type.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: is damaged: its configuration is not valid ({error!r}). Copy it again.") from error


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    check_readable(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: is damaged, not JSON ({error}). Copy or download it again.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: must hold a JSON object, but holds a {type(data).__name__}.")
    return data


@dataclass
class LoadedModel:
    """An encoder (CPU, evaluation mode; fp32, or int8 inside) and what identifies it."""

    encoder: SpeechEncoder
    path: Path
    sha256: str | None
    """SHA-256 of its weights files; None for random weights."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Origin of the model, as written in the file or folder."""

    @property
    def note(self) -> str | None:
        """A note such as "random teacher", to be shown with every result of the model."""
        return self.provenance.get("teacher_note")


@dataclass(frozen=True)
class ReadOptions:
    """Options of readers; each format uses those that it needs."""

    shape: EncoderConfig | None = None
    """Public model with the shape of the encoder, for a format that does not contain it."""
    dense: EncoderConfig | None = None
    """Expected dense shape, for formats that only hold the kept structure; tried before the public shapes."""
    int8: bool = False
    """Whether an int8 encoder, which is for inference only, is acceptable."""
    subnet: str | None = None
    """Subnet of a supernet, for formats that hold supernets; None for the one that the file names."""


@dataclass(frozen=True)
class WriteOptions:
    """Options of writers; each format uses those that it can store."""

    provenance: Mapping[str, Any] = field(default_factory=dict)
    """JSON data on the model's origin."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Further files of a folder, content by name."""
    progress: Progress | None = None
    """Called with the number of bytes just written."""


@dataclass(frozen=True)
class Format:
    """One checkpoint format. Each has a file that ends with its `Format`; `formats.WRITES` names them."""

    name: str
    """Name on command lines, and of its file."""
    about: str
    """Description of its files, for the message that lists the known formats."""
    recognise: Callable[[Source], bool]
    """Whether a file or folder declares this format. At most one of all formats returns True."""
    read: Callable[[Source, ReadOptions], LoadedModel] | None = None
    """Reads a recognised file; None for a format that is only written."""
    write: Callable[[Path, SpeechEncoder, WriteOptions], None] | None = None
    """Writes a new file or folder, completely or not at all (`tensor_files.written_whole`); None if it is only read."""
    holds_pruned: bool = False
    """Whether it can store pruned encoders."""
    holds_int8: bool = False
    """Whether it can store int8 encoders."""
    holds_supernets: bool = False
    """Whether it can hold supernets, of which a subnet is read."""


def dense_model(
    source: Source, config: EncoderConfig, state: Mapping[str, Tensor], *, weights: Sequence[Path] = ()
) -> LoadedModel:
    """A dense encoder from a checkpoint of another program: `pruned_model` with the full structure."""
    dense = CompactSpec.dense(config)
    return pruned_model(source, config, dense, state, weights=weights, method="converted, not pruned")


def pruned_model(
    source: Source,
    config: EncoderConfig,
    spec: CompactSpec,
    state: Mapping[str, Tensor],
    *,
    method: str,
    weights: Sequence[Path] = (),
) -> LoadedModel:
    """An encoder from a checkpoint of another program.

    Tensors stay mapped from the file if its format allows this, so that memory holds one model instead of two: the file
    must not be overwritten in place while the encoder exists (replacing it by a renamed file is harmless).

    Args:
        source: its file or folder.
        config: dense shape.
        spec: kept structure.
        state: weights with our names (`KeyTable.to_ours`), in any precision.
        method: how it was made, for its card.
        weights: files with the weights; if empty, the source itself.
    """
    encoder = SpeechEncoder(config, spec)
    encoder.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    sha256 = file_sha256(*(weights or [source.path]))
    origin = {"name": source.path.name, "sha256": sha256}
    provenance = {"method": method, "source": origin, "teacher_note": None}
    return LoadedModel(encoder.eval(), source.path, sha256, provenance)
