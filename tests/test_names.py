"""One word for one thing: no two classes share a name."""

import ast
from collections import defaultdict
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
BY_CONTRACT = {"UpstreamPretrainExpert"}
"""s3prl finds a pretraining expert by this name in its module."""


def classes(*folders):
    """The files that define each public class."""
    found = defaultdict(list)
    for folder in folders:
        for path in sorted((REPO / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found[node.name].append(str(path.relative_to(REPO)))
    return found


def test_no_two_classes_share_a_name():
    found = classes("s3prl_pruned", "benchmarks")
    assert len(found) > 100, "looked in the wrong place"
    assert {name: files for name, files in found.items() if len(files) > 1 and name not in BY_CONTRACT} == {}
