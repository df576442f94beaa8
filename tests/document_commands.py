"""The commands and the Python examples of README and docs, taken from the pages."""

import ast
import re
import shlex
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]
_OURS = r"(python|torchrun|make|s3prl-pruned) "
_OTHERS = r"(git|pip|bash|g\+\+|\./\S+) "
_BLOCK = re.compile(r"^ {4}.*\n(?:\n* {4}.*\n)*", flags=re.M)


def blocks(page):
    """The blocks of code of a page, without their indentation."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8") + "\n")
    return [re.sub(r"^ {4}", "", block, flags=re.M) for block in found]


def commands(page, *, others=False):
    """The commands of a page, as words: of its blocks of code, and of its text where they are whole.

    Continued lines are joined.

    Args:
        page: the file.
        others: also commands of other programs, such as pip.
    """
    begins = re.compile(f"({_OURS}|{_OTHERS})" if others else _OURS)
    lines = [line for block in blocks(page) for line in re.sub(r"\\\n\s+", "", block).splitlines()]
    for code in re.findall(r"`((?:python -m|s3prl-pruned -)[^`]+)`", _BLOCK.sub("", page.read_text(encoding="utf-8"))):
        lines.append(" ".join(code.split()))
    return [shlex.split(line, comments=True) for line in lines if begins.match(line)]


def examples(page):
    """The Python examples of a page: blocks that are Python and import or call something."""
    return [block for block in blocks(page) if _is_example(block)]


def _is_example(block):
    try:
        tree = ast.parse(block)
    except SyntaxError:
        return False
    return any(isinstance(node, (ast.Import, ast.ImportFrom, ast.Call)) for node in ast.walk(tree))
