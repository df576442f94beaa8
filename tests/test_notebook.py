"""The notebook, a script with cells: it runs, and the site shows all of it."""

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
SCRIPT = REPO / "docs" / "notebook.py"


@pytest.fixture(scope="module")
def hooks():
    """`docs/hooks.py`, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("documentation_hooks", REPO / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_every_cell(hooks):
    script = SCRIPT.read_text(encoding="utf-8")
    page = hooks.as_markdown(script)
    code = re.findall(r"^```python\n(.*?)^```$", page, flags=re.M | re.S)
    assert ast.dump(ast.parse("".join(code))) == ast.dump(ast.parse(script))
    words = [line.removeprefix("# ") for line in script.splitlines() if line.startswith("# ## ")]
    assert len(words) > 4 and all(f"\n{heading}\n" in page for heading in words)
    assert page.startswith("# Notebook") and "# %%" not in page and "jupytext:" not in page


def test_its_pictures_and_links_are_there(hooks):
    page = hooks.as_markdown(SCRIPT.read_text(encoding="utf-8"))
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", page) if "://" not in target]
    assert len(targets) > 5 and all((SCRIPT.parent / target).is_file() for target in targets)


def test_its_names_are_ours():
    imported = [node for node in ast.walk(ast.parse(SCRIPT.read_text())) if isinstance(node, ast.ImportFrom)]
    ours = [(node.module, name.name) for node in imported for name in node.names if node.module.startswith("s3prl")]
    assert len(ours) > 4
    assert [name for module, name in ours if not hasattr(importlib.import_module(module), name)] == []


def test_names_of_code_on_pages_are_ours(hooks):
    found = hooks.CODE.findall((REPO / "docs" / "method.md").read_text(encoding="utf-8"))
    assert len(found) > 15
    for file, name in found:
        first, last = hooks.lines_of(REPO / file, name)
        line = (REPO / file).read_text(encoding="utf-8").splitlines()[first - 1]
        assert re.search(rf"(def|class) {name.split('.')[-1]}\b", line) and last > first


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_runs(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPO),
        "NOTEBOOK_STEPS": "4",
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run([sys.executable, SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(re.findall(r"^step \d: target .* realised", done.stdout, flags=re.M)) == 4
    scores = [float(score) for score in re.findall(r"^state \d: R2 (\S+)", done.stdout, flags=re.M)]
    assert len(scores) == 7 and scores[0] > 0.99  # the recipe leaves the CNN as it is
    assert re.search(r"^[\d.]+ times as fast$", done.stdout, flags=re.M)
    pictures = {path.stem for path in (tmp_path / "result" / "notebook").glob("*.png")}
    assert pictures == {"sparsity", "structure", "states"}
