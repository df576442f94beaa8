"""Reading and writing model files with one model in memory: safetensors are mapped, tensors written one by one."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from s3prl_pruned.checkpoint import sync
from s3prl_pruned.config import UserError

Progress = Callable[[int], None]
"""Called with the number of bytes just written."""
_DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int8: "I8",
}


def check_readable(path: Path) -> None:
    """Raise a `UserError` if a file is missing or may not be read, since it is not damaged in these cases."""
    if not path.is_file():
        raise UserError(f"{path}: no such file. Name an existing checkpoint.")
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        raise UserError(
            f"{path}: cannot be opened ({error.strerror}). Check its permissions and the disk, or name a copy."
        ) from error


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a file, mapped instead of copied, and its metadata.

    Raises:
        UserError: the file is missing, may not be read, or is damaged.
    """
    check_readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in list(file.keys())}, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: is truncated, or is no safetensors file ({error}). Copy or download it again."
        ) from error


def write_safetensors(
    path: Path,
    state: dict[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    metadata: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write tensors in safetensors' format one by one, because the library's writer copies the whole model first.

    The format: 8 bytes with the length of the header, the header as JSON, and the bytes of all tensors.

    Args:
        path: the file; overwritten.
        state: tensors by name, on any device.
        dtype: type of every tensor in the file; None keeps each tensor's own.
        metadata: texts in the header.
        progress: called with the number of bytes just written.
    """
    header: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for name, tensor in state.items():
        kind = dtype or tensor.dtype
        size = tensor.numel() * kind.itemsize
        header[name] = {"dtype": _DTYPES[kind], "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # align the tensors to 8 bytes
    with open(path, "wb") as file:
        counted = CountedFile(file, progress)
        counted.write(len(text).to_bytes(8, "little") + text)
        for tensor in state.values():
            if tensor.numel():
                tensor = tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
                counted.write(tensor.flatten().view(torch.uint8).numpy())
    sync(path)


def write_torch_file(path: Path, content: Mapping[str, Any], *, progress: Progress | None = None) -> None:
    """Write a file for `torch.load`.

    Args:
        path: the file; overwritten.
        content: tensors and plain data.
        progress: called with the number of bytes just written.

    Raises:
        OSError: it cannot be written.
    """
    with open(path, "wb") as file:
        try:
            torch.save(content, cast("IO[bytes]", CountedFile(file, progress)))
        except RuntimeError as error:  # torch's zip writer hides the OSError
            raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from error
    sync(path)


class CountedFile(io.RawIOBase):
    """A file that reports the number of bytes written to it."""

    def __init__(self, file: IO[bytes], progress: Progress | None):
        self.file, self.progress = file, progress

    def writable(self) -> bool:
        """Always True."""
        return True

    def write(self, data: Any) -> int:
        """Write `data`, any object with a buffer, to the file."""
        written = self.file.write(data)
        if self.progress is not None:
            self.progress(written)
        return written

    def flush(self) -> None:
        """Flush the file."""
        self.file.flush()


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Temporary name beside `path` for a file or folder: renamed to `path` at the end, removed after an error.

    Raises:
        UserError: `path` exists already, or cannot be written.
    """
    if path.exists():
        raise UserError(f"{path}: exists already, and an export never overwrites. Name another path, or move it.")
    temporary = path.with_name(f".{path.name}.tmp")
    _remove(temporary)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.rename(temporary, path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: could not be written ({error}). Free space or name another path.") from error
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def file_sha256(*paths: str | Path) -> str:
    """SHA-256 of a file, or of several one after the other, in hexadecimal, as printed by `cat ... | sha256sum`."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
