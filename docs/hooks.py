"""Hooks of the documentation's build: pictures of `downstream_runs/` are copied in, so that each lies in one place."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PICTURES = ("figure2.png", "tradeoff.png")


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
