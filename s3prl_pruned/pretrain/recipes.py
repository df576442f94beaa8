"""Recipes: their files merged with those of their `base:`, and changes of single keys."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s3prl_pruned import resources
from s3prl_pruned.config import UserError, apply_overrides, laid_over, load_yaml
from s3prl_pruned.sparsity.config import FORMER_KEYS, TARGETS, renewed

MODEL_FILE, RUNNER_FILE = "config_model.yaml", "config_runner.yaml"
"""The files of a recipe."""


def whole_recipe(family: str, objective: str) -> str:
    """Name of a recipe for a full-size model, for advice: the paper's recipe if the family has one.

    Args:
        family: one of `models.shape.FAMILIES`.
        objective: `distill`, or the task of one-pass pruning, such as `asr`.
    """
    if objective != "distill":
        return f"self_pinching_{objective}"
    return "whisper_tiny_en_s65" if family == "whisper" else f"{family}_base_s80"


def recipe_folder(name: str, *, beside: Path | None = None) -> Path | None:
    """The folder of a recipe, from its name or path; None if there is no such folder.

    Args:
        name: name of one of our recipes, or a path.
        beside: start of relative paths (default: the working directory).
    """
    for folder in ((beside or Path()) / name, resources.recipes() / name):
        if folder.is_dir():
            return folder
    return None


def load_recipe(path: str | Path, file: str) -> dict[str, Any]:
    """Content of a recipe's file, merged over `file` of its `base:` (`config.laid_over`).

    Args:
        path: path of the file.
        file: which file of a recipe it is, `MODEL_FILE` or `RUNNER_FILE`.

    Raises:
        UserError: a file cannot be read, or a base is unknown or based on this file.
    """
    return _load(Path(path), file, ())


def _load(path: Path, file: str, above: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in above:
        names = " -> ".join(step.parent.name for step in (*above, path))
        raise UserError(f"{path}: `base` is circular: {names}. Leave one of them out.")
    own = load_yaml(path)
    base = own.pop("base", None)
    below = {} if base is None else _load(_base(path, base) / file, file, (*above, path.resolve()))
    return with_targets(below, own, str(path))


def _base(path: Path, name: Any) -> Path:
    folder = recipe_folder(name, beside=path.parent) if isinstance(name, str) and name else None
    if folder is None:
        known = sorted(each.name for each in resources.recipes().iterdir() if each.is_dir())
        nearest = difflib.get_close_matches(str(name), known, n=1)
        advice = f"Did you mean `{nearest[0]}`?" if nearest else f"Recipes: {', '.join(known)}."
        raise UserError(f"{path}: `base` must be a recipe or a folder, but is {name!r}. {advice}")
    return folder


def with_targets(below: dict[str, Any], above: dict[str, Any], where: str) -> dict[str, Any]:
    """Merge `above` over `below`, with old keys of targets converted to current ones.

    Args:
        below: content of a recipe.
        above: changes to it.
        where: name of `above` in messages.
    """
    result = laid_over(below, above)
    if "sparsity" in above:
        try:
            result["sparsity"] = renewed(above["sparsity"], onto=below.get("sparsity"))
        except UserError as error:
            raise UserError(f"{where}: sparsity: {error}") from error
    return result


def with_overrides(model: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Content of `MODEL_FILE` with `key=value` assignments, which may use old or current keys of targets.

    Args:
        model: plain data; not modified.
        overrides: such as `sparsity.target.share=0.6` or, with the old key, `sparsity.target_sparsity=0.6`.

    Raises:
        UserError: as in `apply_overrides`, or a target is set with both old and current keys.
    """
    of_target = [item for item in overrides if _names_a_target(item)]
    changed = apply_overrides(model, [item for item in overrides if item not in of_target])
    return with_targets(with_targets({}, changed, "-o"), apply_overrides({}, of_target), "-o")


def _names_a_target(item: str) -> bool:
    section, _, key = item.partition("=")[0].strip().removeprefix("config.").partition(".")
    return section == "sparsity" and key.split(".")[0] in (*TARGETS, *FORMER_KEYS)
