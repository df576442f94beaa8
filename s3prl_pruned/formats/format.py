"""What a checkpoint format is: how its files are recognised, how an encoder is read from them and written to them."""

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
from s3prl_pruned.models.spec import CompactSpec, EncoderConfig

CONFIG, SAFETENSORS, PICKLED = "config.json", "model.safetensors", "pytorch_model.bin"
_FOLDER_FILES = (CONFIG, SAFETENSORS, PICKLED, f"{SAFETENSORS}.index.json", f"{PICKLED}.index.json")


class Source:
    """A file or folder that is to be read. What it holds is opened once, however many formats look at it.

    Args:
        path: a folder's `config.json`, weights or their index stand for the folder.

    Attributes:
        path: the file or folder.
        folder: the folder itself, or the one that the file is in (a configuration may lie beside the weights).

    Raises:
        UserError: there is no such file or folder.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        if not path.exists():
            raise UserError(f"{path}: no such file or folder. Give the path of an existing checkpoint.")
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
        """The end of the file's name. s3prl names a downloaded file by its whole URL; what follows `?` is left out."""
        return Path(self.path.name.split("?")[0]).suffix

    @cached_property
    def content(self) -> dict:
        """What a torch file holds (`unpickle.read_torch_file`); empty for a folder and for other kinds of file.

        Raises:
            UserError: the file is damaged, or asks for a class that no checkpoint needs.
        """
        return {} if self.is_folder or self.suffix in (".safetensors", ".onnx") else read_torch_file(self.path)

    @cached_property
    def safetensors(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors and the metadata of a single safetensors file; empty for anything else.

        Raises:
            UserError: the file is damaged.
        """
        return read_safetensors(self.path) if not self.is_folder and self.suffix == ".safetensors" else ({}, {})

    @property
    def weights(self) -> Mapping[Any, Any]:
        """The state dict of a single file, also where a trainer wrote it (`keys.weights_of`); empty for a folder.

        Raises:
            UserError: as `content` and `safetensors`.
        """
        return self.safetensors[0] or weights_of(self.content)

    def json(self, name: str = CONFIG) -> dict[str, Any] | None:
        """A JSON object in the folder, or beside the file; None where there is no such file.

        Raises:
            UserError: the file may not be read, is damaged, or holds something else.
        """
        if name not in self._json:
            self._json[name] = _read_json(self.folder / name)
        return self._json[name]

    def holds(self) -> list[str]:
        """The first of its parts by name, for messages."""
        names = (path.name for path in self.path.iterdir()) if self.is_folder else (*self.content, *self.safetensors[0])
        return [str(name)[:60] for name in names][:5]


@contextmanager
def taken_apart(path: Path) -> Iterator[None]:
    """Within it, what a file says of itself is translated: whatever is wrong there is the file's fault, not ours.

    Only translation belongs here. Elsewhere such an error is a fault of this package, and must be seen as one.

    Args:
        path: the file or folder.

    Raises:
        UserError: a value is missing, or is not of the kind that it must be.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path}: is damaged: what it says of itself is no configuration ({error!r}). Copy it again."
        ) from error


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
    """Of its weights' files; None for random weights."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where it comes from, as the file or folder says."""

    @property
    def note(self) -> str | None:
        """Such as "random teacher": to be shown wherever a number of it appears."""
        return self.provenance.get("teacher_note")


@dataclass(frozen=True)
class ReadOptions:
    """What a reader may be told; each format takes what concerns it."""

    shape: EncoderConfig | None = None
    """For a format that does not say its shape."""
    dense: EncoderConfig | None = None
    """For a format that says of a pruned encoder what is left, and not of what: tried before the public shapes."""
    int8: bool = False
    """Whether an int8 encoder will do, which serves inference only."""
    subnet: str | None = None
    """Which model of a supernet is meant, for a format that holds those; None for the one that the file means."""


@dataclass(frozen=True)
class WriteOptions:
    """What a writer may be told; each format takes what it has a place for."""

    provenance: Mapping[str, Any] = field(default_factory=dict)
    """JSON data on where the model comes from."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """More files of a folder, by name."""
    progress: Progress | None = None
    """Called with the number of bytes just written."""


@dataclass(frozen=True)
class Format:
    """One checkpoint format. Each has a file of its own, which ends in it; `formats.WRITES` names them."""

    name: str
    """What command lines call it; also its file's."""
    about: str
    """What its files are, for the message that lists the known formats."""
    recognise: Callable[[Source], bool]
    """Whether a file or folder is of this format, by what it declares. Of all formats one at most says yes."""
    read: Callable[[Source, ReadOptions], LoadedModel] | None = None
    """Read what was recognised; None where the format is only written."""
    write: Callable[[Path, SpeechEncoder, WriteOptions], None] | None = None
    """Write a new file or folder, whole or not at all (`tensor_files.written_whole`); None where it is only read."""
    holds_pruned: bool = False
    """Whether it can hold a pruned encoder."""
    holds_int8: bool = False
    """Whether it can hold an int8 encoder."""
    holds_supernets: bool = False
    """Whether it can hold a supernet, of which a subnet is read."""


def dense_model(
    source: Source, config: EncoderConfig, state: Mapping[str, Tensor], *, weights: Sequence[Path] = ()
) -> LoadedModel:
    """A dense encoder of another program's checkpoint: `pruned_model` that lacks nothing."""
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
    """An encoder of another program's checkpoint.

    Tensors stay mapped from the file where its format allows it, so that memory holds one model and not two: the file
    must not be overwritten in place while the encoder lives (replacing it by a renamed one is harmless).

    Args:
        source: where it comes from.
        config: its dense shape.
        spec: what is left of it.
        state: the weights under our names (`KeyTable.to_ours`), in any precision.
        method: what made it, for its card.
        weights: the files that hold them; none means the source itself.
    """
    encoder = SpeechEncoder(config, spec)
    encoder.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    sha256 = file_sha256(*(weights or [source.path]))
    origin = {"name": source.path.name, "sha256": sha256}
    provenance = {"method": method, "source": origin, "teacher_note": None}
    return LoadedModel(encoder.eval(), source.path, sha256, provenance)
