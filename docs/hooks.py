"""Hooks of the documentation's build: the version in the site's name, and the pictures of `downstream_runs/`."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from s3prl_pruned import __version__

PICTURES = ("figure2.png", "tradeoff.png")


def on_config(config: Any) -> Any:
    """Add the version to the site's name, which every page shows.

    Args:
        config: MkDocs's configuration.
    """
    config.site_name = f"{config.site_name} {__version__}"
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pictures under `assets/`.

    Args:
        files: of the documentation.
        config: MkDocs's configuration.
    """
    folder = Path(config["config_file_path"]).parent / "downstream_runs"
    for name in PICTURES:
        files.append(File.generated(config, f"assets/{name}", abs_src_path=str(folder / name)))
    return files
