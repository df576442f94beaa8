"""Weights of a folder written by transformers' `save_pretrained`: one file, or several and an index."""

import json
from pathlib import Path

from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.format import PICKLED, SAFETENSORS
from s3prl_pruned.formats.keys import weights_of
from s3prl_pruned.formats.tensor_files import read_safetensors
from s3prl_pruned.formats.unpickle import read_torch_file

NAMES = (SAFETENSORS, PICKLED)
"""Names of a single file, in transformers' order of preference; several files have `<name>.index.json`."""


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights.

    Raises:
        UserError: there are none, or the index is damaged, or names a file that is outside the folder or missing.
    """
    single, index = _find(folder)
    return [single] if index is None else [folder / part for part in sorted(set(_read_index(index).values()))]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors by name, mapped from the files instead of copied.

    Raises:
        UserError: as in `weight_files`, or a file is damaged, or a tensor is not in the file that the index names.
    """
    single, index = _find(folder)
    if index is None:
        return _read(single)
    places = _read_index(index)
    weights: dict[str, Tensor] = {}
    for part in sorted(set(places.values())):
        found, expected = _read(folder / part), {key for key, place in places.items() if place == part}
        for wrong, verb, where in (
            (found.keys() - expected, "holds", "elsewhere"),
            (expected - found.keys(), "lacks", "there"),
        ):
            if wrong:
                raise UserError(
                    f"{folder / part}: {verb} {min(wrong, key=str)!r}, which {index.name} places {where}. "
                    "These are files of different models: download the folder again."
                )
        weights |= found
    return weights


def _find(folder: Path) -> tuple[Path, Path | None]:
    """Path of the single file and None, or the common name of several files and their index."""
    for name in NAMES:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file() or index.is_file():
            return folder / name, None if (folder / name).is_file() else index
    raise UserError(
        f"{folder}: holds no weights: neither {' nor '.join(NAMES)}, nor an index of several files. Copy or download "
        "it again."
    )


def _read_index(path: Path) -> dict[str, str]:
    """File of each tensor; all are in the same folder."""

    def once(pairs: list[tuple]) -> dict:
        data = dict(pairs)
        if len(data) < len(pairs):
            keys = [key for key, _ in pairs]
            raise UserError(
                f"{path}: names {next(key for key in keys if keys.count(key) > 1)!r} twice. Download the folder again."
            )
        return data

    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: is damaged, not JSON ({error}). Copy or download it again.") from error
    places = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(places, dict) or not places:
        raise UserError(f"{path}: `weight_map` must map each tensor to its file, but is {str(places)[:60]}.")
    suffix = Path(path.name.removesuffix(".index.json")).suffix
    for part in {str(part): part for part in places.values()}.values():
        if not isinstance(part, str) or Path(part).name != part or "\\" in part or not part.endswith(suffix):
            raise UserError(
                f"{path}: a tensor's file must be the name of a {suffix} file in the same folder, but is "
                f"{str(part)[:200]!r}. Do not trust it."
            )
        if not (path.parent / part).is_file():
            raise UserError(f"{path.parent}: lacks {part!r}, which {path.name} names. Download it too.")
    return places


def _read(path: Path) -> dict[str, Tensor]:
    return read_safetensors(path)[0] if path.suffix == ".safetensors" else dict(weights_of(read_torch_file(path)))
