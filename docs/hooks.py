"""Hooks of the documentation's build. The site's name ends in the version.

Pictures of `downstream_runs/` are copied in, so that each lies in one place. The notebook is kept as a script with
cells, and becomes a page. Names of code such as `s3prl_pruned/gates/attach.py:MaskDraw` become links with line numbers.
"""

import ast
import re
from pathlib import Path
from typing import Any

from s3prl_pruned import __version__

PICTURES = ("figure2.png", "tradeoff.png")
NOTEBOOK, NOTEBOOK_PAGE = "notebook.py", "notebook.md"
CODE = re.compile(r"`(s3prl_pruned/[\w/]+\.py):([\w.]+)`")
"""A file, and a function, class or method in it."""


def on_config(config: Any) -> Any:
    """Add the version to the site's name, which every page shows.

    Args:
        config: MkDocs's configuration.
    """
    config.site_name = f"{config.site_name} {__version__}"
    return config


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pictures under `assets/`, and the notebook's page.

    Args:
        files: of the documentation (`mkdocs.structure.files.Files`).
        config: MkDocs's configuration.
    """
    from mkdocs.structure.files import File

    folder = Path(config["config_file_path"]).parent / "downstream_runs"
    for name in PICTURES:
        files.append(File.generated(config, f"assets/{name}", abs_src_path=str(folder / name)))
    script = (Path(config["docs_dir"]) / NOTEBOOK).read_text(encoding="utf-8")
    files.append(File.generated(config, NOTEBOOK_PAGE, content=as_markdown(script)))
    return files


def on_page_markdown(markdown: str, *, config: Any, **others: Any) -> str:
    """Turn names of code into links to where the same page shows it, with its lines, and the notebook into its page.

    Args:
        markdown: a page.
        config: MkDocs's configuration.
        others: not used.
    """
    root = Path(config["config_file_path"]).parent

    def link(found: re.Match) -> str:
        file, name = found.groups()
        first, last = lines_of(root / file, name)
        identifier = f"{file.removesuffix('.py').replace('/', '.')}.{name}"
        return f"[`{name}`, {file.removeprefix('s3prl_pruned/')}, lines {first} to {last}](#{identifier})"

    return CODE.sub(link, markdown).replace(f"({NOTEBOOK})", f"({NOTEBOOK_PAGE})")


def lines_of(path: Path, name: str) -> tuple[int, int]:
    """The first and the last line of a function or class; of a method `Class.method`.

    Args:
        path: of the module.
        name: in it.

    Raises:
        IndexError: there is none of that name.
    """
    node: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
    for part in name.split("."):
        # The last one: those before it are overloads.
        node = [child for child in ast.iter_child_nodes(node) if getattr(child, "name", None) == part][-1]
    assert isinstance(node, (ast.FunctionDef, ast.ClassDef))
    return node.lineno, node.end_lineno or node.lineno


def as_markdown(script: str) -> str:
    """A script with cells as a page: cells of text as they are, cells of code as blocks of code.

    Args:
        script: in jupytext's percent format; what stands before the first cell is left out.
    """
    pieces = re.split(r"^# %%(.*)\n", script, flags=re.M)[1:]
    cells = []
    for kind, body in zip(pieces[::2], pieces[1::2], strict=True):
        if "[markdown]" in kind:
            cells.append(re.sub(r"^# ?", "", body, flags=re.M).strip())
        else:
            cells.append(f"```python\n{body.strip()}\n```")
    return "\n\n".join(cells) + "\n"
