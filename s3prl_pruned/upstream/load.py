"""Which model an upstream runs: an export, a training checkpoint, a dense checkpoint, or the newest export."""

import logging
from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.export.formats import CONFIG, WEIGHTS, file_sha256, is_huggingface_folder, load_encoder
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.huggingface_folder import folder_of
from s3prl_pruned.pretrain.distill.teachers import load_teacher
from s3prl_pruned.pretrain.finish import masked_student

logger = logging.getLogger(__name__)

RESULTS = Path("result/pretrain")


@dataclass
class LoadedModel:
    """An encoder in evaluation mode and what identifies it."""

    encoder: SpeechEncoder
    path: Path
    sha256: str | None
    """Of the weights file; None for random weights."""
    note: str | None
    """Such as "random teacher": to be shown wherever a number of it appears."""


def newest_export(upstream: str) -> Path:
    """The export under `result/pretrain/<upstream>_distill/` that was finished last; not one that `--force` moved aside.

    Raises:
        UserError: there is none.
    """
    folder = RESULTS / f"{upstream}_distill"
    exports = [path for path in folder.glob(f"*/export/{CONFIG}") if ".old-" not in path.parent.parent.name]
    if not exports:
        raise UserError(
            f"{folder}: holds no finished export. Make one (python run_pretrain.py -u {upstream}_distill), or name one "
            "with -k."
        )
    return max(exports, key=lambda path: path.stat().st_mtime).parent


def load_model(path: str | Path) -> LoadedModel:
    """Load an encoder from any file or folder that this project writes, or from a public format (`models/load.py`).

    Args:
        path: an export's folder (or its `model.safetensors` or `config.json`), a training checkpoint (`states-*.ckpt`;
            its masks are then applied, not cut), a dense checkpoint, or `random` (the embedded teacher's shape).

    Raises:
        UserError: no such file, damaged, or of another kind.
    """
    path = Path(path)
    if not path.exists() and str(path) != "random":
        raise UserError(f"{path}: no such model. -k takes an export's folder or a checkpoint.")
    path = folder_of(path)
    if path.is_dir() and not is_huggingface_folder(path):
        encoder, provenance = load_encoder(path, for_inference=True)
        return LoadedModel(encoder, path, file_sha256(path / WEIGHTS), provenance.get("teacher_note"))
    if path.name.split("?")[0].endswith(".ckpt"):  # s3prl names a downloaded file by its whole URL, query included
        encoder, _, provenance = masked_student(path)
        logger.warning("%s is a training checkpoint: its masks are applied, nothing is cut away.", path)
        return LoadedModel(encoder, path, file_sha256(path), provenance.get("teacher_note"))
    teacher = load_teacher(str(path))
    return LoadedModel(teacher.encoder, path, teacher.sha256, teacher.note)
