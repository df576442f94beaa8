"""Safetensors in and out with one model in memory: read by mapping, written one tensor after the other."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from s3prl_pruned.config import UserError

Progress = Callable[[int], None]
"""Called with the number of bytes just written."""
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64", torch.int8: "I8"}


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, mapped and not copied, and its metadata.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. Give the path of an existing checkpoint.")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: is truncated, or is no safetensors file ({error}). Copy or download it again.") from error


def write_safetensors(
    path: Path,
    state: dict[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    metadata: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write tensors in safetensors' format, one after the other: the library's own writer copies the whole model first.

    The format: 8 bytes of header length, the header as JSON, the tensors' bytes in a row.

    Args:
        path: the file; overwritten.
        state: on any device.
        dtype: of every tensor in the file; None keeps each tensor's own.
        metadata: texts that the header carries.
        progress: for large files.
    """
    header, offset = {"__metadata__": {"format": "pt", **(metadata or {})}}, 0
    for name, tensor in state.items():
        kind = dtype or tensor.dtype
        size = tensor.numel() * kind.itemsize
        header[name] = {"dtype": _DTYPES[kind], "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    with open(path, "wb") as file:
        counted = CountedFile(file, progress)
        counted.write(len(text).to_bytes(8, "little") + text)
        for tensor in state.values():
            if tensor.numel():
                tensor = tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
                counted.write(tensor.flatten().view(torch.uint8).numpy())
        file.flush()
        os.fsync(file.fileno())


class CountedFile:
    """A file that tells how many bytes went into it."""

    def __init__(self, file, progress: Progress | None):
        self.file, self.progress = file, progress

    def write(self, data) -> int:
        written = self.file.write(data)
        if self.progress is not None:
            self.progress(written)
        return written

    def flush(self) -> None:
        self.file.flush()
