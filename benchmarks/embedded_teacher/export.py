"""The teacher's files: fp16 safetensors for the repository, Microsoft's format, and the model card."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.embedded_teacher.card import teacher_card
from s3prl_pruned.config import UserError
from s3prl_pruned.formats import microsoft
from s3prl_pruned.models.encoder import SpeechEncoder

LARGEST = 16_000_000
"""Maximum bytes of `model.safetensors` in the package."""


def export_teacher(encoder: SpeechEncoder, folder: Path, about: dict) -> None:
    """Write `model.safetensors`, `teacher.pt`, `about.json` and `README.md` into `folder`, each atomically.

    `model.safetensors` holds fp16 tensors (`formats.microsoft.save_safetensors`); `teacher.pt` is Microsoft's
    format, the same numbers in fp32.

    Args:
        encoder: the dense encoder.
        folder: created if needed.
        about: data for `teacher_card`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = microsoft.checkpoint(encoder)
    model = {key: value.detach().half().float() for key, value in checkpoint["model"].items()}
    full = {"cfg": checkpoint["cfg"], "model": model}
    text, card = json.dumps(about, indent=2) + "\n", teacher_card(encoder, about)
    microsoft.save_safetensors(encoder, folder / "model.safetensors", dtype=torch.float16)
    _replace(folder / "teacher.pt", lambda path: torch.save(full, path))
    _replace(folder / "about.json", lambda path: path.write_text(text, encoding="utf-8"))
    _replace(folder / "README.md", lambda path: path.write_text(card, encoding="utf-8"))


def install_teacher(export: Path, target: Path) -> None:
    """Copy the safetensors file and its card into the package.

    Raises:
        UserError: if there is no export yet, or it is too large for the repository.
    """
    source = export / "model.safetensors"
    if not source.is_file():
        raise UserError(f"{source}: no such file. Train the teacher first.")
    if source.stat().st_size > LARGEST:
        raise UserError(f"{source}: must be at most {LARGEST} bytes, but is {source.stat().st_size}.")
    target.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "README.md"):
        _replace(target / name, lambda path, name=name: shutil.copyfile(export / name, path))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    write(partial)
    partial.chmod(0o644)
    os.replace(partial, path)
