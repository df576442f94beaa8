"""Imports flow one way through the package, and importing the package itself does nothing."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import s3prl_pruned

PACKAGE = Path(s3prl_pruned.__file__).parent
ORDER = (
    "config former_defaults resources own_commands parsers command_line progress scalars compat transfers distributed "
    "stop_requests folder_lock checkpoint tables data models gates sparsity objectives compressors formats export "
    "pretrain upstream features superb timing plan report commands __main__"
).split()
"""A module imports only from its own place in this list and from those to its left."""
SUPERB_ORDER = "catalogue metrics results tasks running score".split()
"""The same, for the rooms of `superb/`."""


def modules_imported_by(source, module):
    """The ``(line, dotted name)`` of every import of this package in ``source``, inside functions too.

    A name may end in what is imported from a module: ``s3prl_pruned.data.waveforms.crop``.
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
            if "." in name and name.split(".")[0] in ("s3prl_pruned", "tools", "tests", "benchmarks"):
                yield node.lineno, name


def sources(package):
    """``(relative path, module's dotted name, text)`` of every file below ``package`` but its own ``__init__.py``."""
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        if relative != Path("__init__.py"):  # the package's own face: the test of its import is below
            module = ".".join(["s3prl_pruned", *relative.with_suffix("").parts])
            yield relative, module, path.read_text(encoding="utf-8")


def rooms_of(module):
    """A module's place in each order that holds for it: ``(order, part)``."""
    parts = module.split(".")
    if parts[0] != "s3prl_pruned":
        return [(ORDER, parts[0])]
    rooms = [(ORDER, parts[1])]
    return [*rooms, (SUPERB_ORDER, parts[2])] if parts[1] == "superb" and len(parts) > 2 else rooms


def violations(package):
    """One line for each import in the folder ``package`` that goes against ``ORDER`` or ``SUPERB_ORDER``."""
    found = []
    for relative, module, text in sources(package):
        rooms = rooms_of(module)
        unknown = [part for order, part in rooms if part not in order and part != "__init__"]
        if unknown:
            found.append(f"{relative}: {unknown[0]!r} has no place in the import order")
            continue
        for line, name in modules_imported_by(text, module):
            if name == "s3prl_pruned.__version__":
                continue
            for (order, part), (other_order, other) in zip(rooms, rooms_of(name), strict=False):
                if order is other_order and (other not in order or order.index(other) > order.index(part)):
                    found.append(f"{relative}:{line}: {part} must not import {other}")
    return found


def cycles(package):
    """The modules of the folder ``package`` that import each other in a circle, one list for each circle."""
    found = {module.removesuffix(".__init__"): text for _, module, text in sources(package)}
    graph = {}
    for module, text in found.items():
        names = [name for _, name in modules_imported_by(text, module)]
        targets = {name if name in found else name.rpartition(".")[0] for name in names}
        graph[module] = sorted((targets & set(found)) - {module})
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def test_every_module_imports_only_from_its_left():
    assert len(list(PACKAGE.rglob("*.py"))) > 10, "looked in the wrong place"
    assert violations(PACKAGE) == []


def test_no_modules_import_each_other_in_a_circle():
    assert cycles(PACKAGE) == []


def test_a_circle_inside_one_room_is_found(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "one.py").write_text("def f():\n    from s3prl_pruned.models import two")
    (tmp_path / "models" / "two.py").write_text("from s3prl_pruned.models.one import f")
    assert set(cycles(tmp_path)) == {"s3prl_pruned.models.one", "s3prl_pruned.models.two"}


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
        ("timing/clock.py", "import tools.bench", "timing must not import tools"),
        ("timing/clock.py", "from benchmarks import step", "timing must not import benchmarks"),
        ("superb/metrics/der.py", "from s3prl_pruned.superb.results import result", "metrics must not import results"),
        (
            "superb/catalogue.py",
            "from s3prl_pruned.superb.score.table import as_csv",
            "catalogue must not import score",
        ),
        ("superb/novel.py", "", "'novel' has no place in the import order"),
        ("novel/thing.py", "", "'novel' has no place in the import order"),
    ],
)
def test_a_violation_is_found(tmp_path, path, source, complaint):
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
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
