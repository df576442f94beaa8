"""README and docs: their commands are ones that the program takes, their links lead somewhere, their messages are ours.

`mkdocs build --strict` (`make docs`) checks the links between pages; `test_documents_run.py` runs the commands.
"""

import ast
import importlib
import importlib.util
import re

import pytest
import yaml

from s3prl_pruned.command_line import STOP_SIGNALS
from s3prl_pruned.own_commands import COMMANDS, CONSOLE
from s3prl_pruned.pretrain.resolve import resolve
from tests.document_commands import PAGES, REPO, commands

SCRIPTS = {command.script: name for name, command in COMMANDS.items()}
MAKE = {"run", "test", "slow", "gpu", "lint", "wheel", "hosts", "docs", "release"}
ALL = [pytest.param(words, id=f"{page.stem}: {' '.join(words)[:90]}") for page in PAGES for words in commands(page)]


def called(words):
    """(name of our command, its options) of words; None where they call something else."""
    if words[0] == "torchrun":
        place = next(i for i, word in enumerate(words) if word in SCRIPTS or word == "-m")
        words = ["python", *words[place:]]
    if words[0] == CONSOLE:
        return None if words[1].startswith("-") else (words[1], words[2:])
    if words[1] == "-m" and words[2] == "s3prl_pruned.commands":
        return words[3], words[4:]
    return (SCRIPTS[words[1]], words[2:]) if words[1] in SCRIPTS else None


@pytest.mark.parametrize("words", ALL)
def test_every_command_is_one_that_the_program_takes(words):
    if words[0] == "make":
        assert words[1] in MAKE and f"\n{words[1]}:" in (REPO / "Makefile").read_text()
        return
    found = called(words)
    if found is None and words[0] == CONSOLE:
        assert words[1] in ("-h", "--completion"), words
        return
    if found is None:
        assert words[1] == "-m", words
        spec = importlib.util.find_spec(words[2])
        assert spec is not None, words
        module = f"{words[2]}.__main__" if spec.submodule_search_locations else words[2]
        make_parser = getattr(importlib.import_module(module), "make_parser", None)
        if make_parser is not None:
            make_parser().parse_args(words[3:])
        return
    name, options = found
    if options == ["-h"]:
        assert name in COMMANDS
        return
    module = importlib.import_module(f"s3prl_pruned.commands.{name}")
    args = module.make_parser().parse_args(options[: options.index("--")] if "--" in options else options)
    if name == "pretrain" and args.latency_table is None and "..." not in options:
        resolve(args)  # the recipe, the keys of -o, the target


def test_the_commands_were_found():
    named = {
        found[0] for words in (param.values[0] for param in ALL) if words[0] != "make" and (found := called(words))
    }
    assert named == set(COMMANDS) - {"quickstart"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    for target in targets:
        if "://" in target or target.startswith(("#", "assets/")):
            continue
        assert (page.parent / target.split("#")[0]).exists(), f"{page.name}: {target}"


def texts(path):
    """The texts of a module; what is put into one later is three dots."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[sd]", "...", node.value)


def test_messages_of_the_page_of_errors_are_ours():
    ours = [text for path in sorted((REPO / "s3prl_pruned").rglob("*.py")) for text in texts(path)]
    messages = re.findall(r"^\| `([^`]+)` \|", (REPO / "docs/errors.md").read_text(encoding="utf-8"), flags=re.M)
    assert len(messages) > 40
    assert [message for message in messages if not any(message in text for text in ours)] == []


def test_the_page_of_errors_has_every_exit_code():
    table = (REPO / "docs/errors.md").read_text(encoding="utf-8").split("## Installation")[0]
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", table, flags=re.M)}
    assert codes == {0, 1, 2, 141, *STOP_SIGNALS.values()}


def test_the_citation_is_that_of_the_cff_file():
    cff, page = yaml.safe_load((REPO / "CITATION.cff").read_text()), (REPO / "docs/cite.md").read_text(encoding="utf-8")
    paper = cff["preferred-citation"]
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    wanted = [cff["title"], f"{{{cff['version']}}}", paper["title"], authors, paper["identifiers"][0]["value"][6:]]
    assert [text for text in wanted if text not in page] == []


def test_the_readme_is_read_in_three_minutes():
    assert len((REPO / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
