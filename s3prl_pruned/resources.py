"""Where recipes and task settings are: inside an installed package; beside the package in a clone."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def recipes() -> Path:
    """The folder of recipes for pruning, `upstream_configs`: one folder each."""
    return _folder("upstream_configs")


def settings() -> Path:
    """The folder of settings of SUPERB's tasks, `downstream_runs`: one YAML file each."""
    return _folder("downstream_runs")


def existing(path: str | Path) -> Path:
    """Resolve a path from a recipe: `upstream_configs/...` is found from any working directory.

    A path that exists as written is returned as it is.
    """
    path = Path(path)
    folders = {folder.name: folder for folder in (recipes(), settings())}
    if path.exists() or path.parts[:1] == () or path.parts[0] not in folders:
        return path
    return folders[path.parts[0]].joinpath(*path.parts[1:])


def _folder(name: str) -> Path:
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name
