"""Hidden states of a whole folder of audio, one file each. Files that exist already are not computed again."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s3prl_pruned.checkpoint import write_text
from s3prl_pruned.config import UserError, to_dict
from s3prl_pruned.data.listing import files_below
from s3prl_pruned.features.chunks import Chunks, refuse_windows
from s3prl_pruned.features.loaded import LoadedEncoder
from s3prl_pruned.folder_lock import locked
from s3prl_pruned.formats.tensor_files import write_safetensors, written_whole
from s3prl_pruned.models.state_rule import StateRule
from s3prl_pruned.progress import progress

logger = logging.getLogger(__name__)

ABOUT = "features.json"
"""Description of the features in a folder: model, layer, precision."""


def _write_npy(path: Path, states: Tensor) -> None:
    with open(path, "wb") as file:
        np.save(file, states.numpy())


def _write_safetensors(path: Path, states: Tensor) -> None:
    write_safetensors(path, {"states": states})


def _write_h5(path: Path, states: Tensor) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file["states"] = states.numpy()


WRITERS: dict[str, Callable[[Path, Tensor], None]] = {
    "npy": _write_npy,
    "safetensors": _write_safetensors,
    "h5": _write_h5,
}
"""Writers by format, which is also the suffix of the files. In the last two, the array is called `states`."""


@dataclass(frozen=True, kw_only=True)
class FeatureFiles:
    """Content and format of the feature files."""

    layer: int | None = None
    """Index of the state to write, (T, D) (0: the first Transformer layer's input, unless the model has its own rule);
    None for all, (states, T, D)."""
    format: str = "npy"
    """A key of `WRITERS`."""
    half: bool = False
    """Write fp16, half as large."""
    chunks: Chunks | None = None
    """How to cut long audio; None encodes it whole."""


def extract_folder(encoder: LoadedEncoder, folder: Path, output: Path, files: FeatureFiles) -> dict[Path, str]:
    """Write the states of all audio below a folder. After an interruption, the same call continues.

    Args:
        encoder: on the device to compute on.
        folder: folder with audio at any depth.
        output: gets one file per audio file, with the same relative path, and `ABOUT`.
        files: content and format.

    Returns:
        Files that could not be read, with the reason; features of all others are written.

    Raises:
        UserError: there is no audio, or `output` holds other features or cannot be written.
    """
    if files.format == "h5" and find_spec("h5py") is None:
        raise UserError("`--format h5` needs h5py: pip install h5py, or use npy or safetensors.")
    encoder.check_layer(files.layer)
    if files.chunks is not None:
        refuse_windows(encoder.encoder.config)
    if not folder.is_dir():
        raise UserError(f"{folder}: must be a folder of audio, but there is no such folder.")
    found = files_below([folder])
    if not found:
        raise UserError(f"{folder}: holds no audio file.")
    targets = {path: output / _target(path.relative_to(folder), files.format) for path in found}
    _refuse_twins(targets)
    unread: dict[Path, str] = {}
    with locked(output):
        _check_about(output, encoder, files)
        missing = [path for path in found if not targets[path].exists()]
        if len(missing) < len(found):
            logger.info("%d of %d files exist already.", len(found) - len(missing), len(found))
        for path in progress(missing, unit="file", desc="features"):
            try:
                states = encoder.extract(path, layer=files.layer, chunks=files.chunks)
            except UserError as error:
                unread[path] = str(error)
                continue
            states = states.cpu().to(torch.float16 if files.half else torch.float32)
            with written_whole(targets[path]) as temporary:
                WRITERS[files.format](temporary, states)
    return unread


def _target(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.stem}.{ending}")


def _refuse_twins(targets: dict[Path, Path]) -> None:
    """Raise UserError for two files whose names differ only in their suffix: both would be written to one file."""
    of_target: dict[Path, Path] = {}
    for path, target in targets.items():
        other = of_target.setdefault(target, path)
        if other != path:
            raise UserError(
                f"{path}: its features would have the same name as those of {other.name} beside it. Rename one, "
                "or extract one of them into another folder."
            )


def _check_about(output: Path, encoder: LoadedEncoder, files: FeatureFiles) -> None:
    """Write the description of the features; refuse a folder that holds others."""
    dtype = str(encoder.dtype).removeprefix("torch.")
    about = {"model": str(encoder.path), "sha256": encoder.sha256, "computed_in": dtype, **asdict(files)}
    about["states"] = to_dict(encoder.rule)
    path = output / ABOUT
    if not path.exists():
        write_text(path, json.dumps(about, indent=2) + "\n")
        return
    try:
        former = {"computed_in": "float32", "states": to_dict(StateRule())}  # not written by earlier versions
        there = {**former, **json.loads(path.read_text(encoding="utf-8"))}
        differing = {name for name in about if name != "model" and there.get(name) != about[name]}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Name another output folder.") from error
    if differing:
        now, before = ({name: data.get(name) for name in sorted(differing)} for data in (about, there))
        raise UserError(f"{output}: holds other features: {before}, but {now} are requested. Name another folder.")
