"""Imports flow one way through the package, and importing the package itself does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import s3prl_pruned

PACKAGE = Path(s3prl_pruned.__file__).parent
ORDER = (
    "config command_line compat distributed checkpoint data models gates sparsity objectives compressors export "
    "pretrain upstream superb measure"
).split()
"""A module imports only from its own place in this list and from those to its left."""


def parts_imported_by(source, module):
    """The ``(line, part)`` of every import of this package in ``source``, inside functions too.

    ``s3prl_pruned.data.waveforms`` and ``from s3prl_pruned import data`` are the part ``data``.
    """
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # from ..a import b, seen in the package x.y, is from x.a import b
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            root, _, rest = name.partition(".")
            if root == "s3prl_pruned" and rest:
                yield node.lineno, rest.split(".")[0]
            elif root in ("tools", "tests"):
                yield node.lineno, root


def violations(package):
    """One line for each import in the folder ``package`` that goes against ``ORDER``."""
    found = []
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        if relative == Path("__init__.py"):
            continue  # the package's own face: the test of its import is below
        part = relative.parts[0].removesuffix(".py")
        module = ".".join(["s3prl_pruned", *relative.with_suffix("").parts])
        if part not in ORDER:
            found.append(f"{relative}: {part!r} has no place in the import order")
            continue
        for line, other in parts_imported_by(path.read_text(encoding="utf-8"), module):
            if other == "__version__":
                continue
            if other not in ORDER or ORDER.index(other) > ORDER.index(part):
                found.append(f"{relative}:{line}: {part} must not import {other}")
    return found


def test_every_module_imports_only_from_its_left():
    assert len(list(PACKAGE.rglob("*.py"))) > 10, "looked in the wrong place"
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    "path, source, complaint",
    [
        ("models/encoder.py", "import s3prl_pruned.gates.attach", "models must not import gates"),
        ("models/encoder.py", "from s3prl_pruned.gates import attach", "models must not import gates"),
        ("models/encoder.py", "from s3prl_pruned import config, gates", "models must not import gates"),
        ("models/encoder.py", "from ..gates import attach", "models must not import gates"),
        ("models/encoder.py", "from .. import gates", "models must not import gates"),
        ("models/encoder.py", "def f():\n    from s3prl_pruned import gates", "encoder.py:2: models must not"),
        ("config.py", "from s3prl_pruned.checkpoint import newest", "config must not import checkpoint"),
        ("data/corpus.py", "from s3prl_pruned import register", "data must not import register"),
        ("measure/timing.py", "import tools.bench", "measure must not import tools"),
        ("novel/thing.py", "", "'novel' has no place in the import order"),
    ],
)
def test_a_violation_is_found(tmp_path, path, source, complaint):
    file = tmp_path / path
    file.parent.mkdir(exist_ok=True)
    file.write_text(source)
    (found,) = violations(tmp_path)
    assert complaint in found


def test_allowed_imports_are_not_violations(tmp_path):
    (tmp_path / "gates").mkdir()
    (tmp_path / "gates" / "attach.py").write_text(
        "import torch, s3prl_pruned\n"
        "from s3prl_pruned import __version__, models\n"
        "from s3prl_pruned.config import UserError\n"
        "from .hard_concrete import HardConcrete\n"
        "from ..models.encoder import SpeechEncoder\n"
    )
    assert violations(tmp_path) == []


def test_importing_the_package_loads_nothing_else_and_patches_nothing():
    """No torch, no s3prl: with no other module loaded, there is nothing that could be patched."""
    code = (
        "import builtins, sys\n"
        "modules, names = set(sys.modules), dict(vars(builtins))\n"
        "import s3prl_pruned\n"
        "assert s3prl_pruned.__version__ and callable(s3prl_pruned.register)\n"
        "assert vars(builtins) == names\n"
        "print(sorted(set(sys.modules) - modules))\n"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=PACKAGE.parent)
    assert result.stdout.strip() == "['s3prl_pruned']", result.stdout + result.stderr
