"""`-h` of every command fits on a screen and has what the README uses; `--help-all` has every option, by group."""

import argparse
import importlib
import re
import sys

import pytest

from s3prl_pruned.own_commands import COMMANDS
from tests.test_documents import PAGES, called, commands

LINES, COLUMNS = 40, 100


@pytest.fixture(params=["script", "console"])
def way(request, monkeypatch):
    """The two ways to call a command, each on a terminal of the same width."""
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    if request.param == "console":
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/s3prl-pruned"])


def parser_of(name):
    return importlib.import_module(f"s3prl_pruned.commands.{name}").make_parser()


def shown(name, option, capsys):
    with pytest.raises(SystemExit) as ended:
        parser_of(name).parse_args([option])
    assert ended.value.code == 0
    return capsys.readouterr().out


def has(text, option):
    """Whether a line of the text starts with an option, or with its other name before it."""
    return re.search(rf"^  (-\w, )?{re.escape(option)}(, | |$)", text, flags=re.M) is not None


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_fits_on_a_screen(name, way, capsys):
    text = shown(name, "-h", capsys)
    assert text == parser_of(name).format_help()
    assert len(text.splitlines()) <= LINES and max(map(len, text.splitlines())) <= COLUMNS
    usage, _, summary, *_ = text.splitlines()
    assert usage.startswith("usage: ") and summary == f"{COMMANDS[name].summary}."


@pytest.mark.parametrize("name", COMMANDS)
def test_the_whole_help_has_every_option_below_the_heading_of_its_group(name, way, capsys):
    text, short, parser = shown(name, "--help-all", capsys), shown(name, "-h", capsys), parser_of(name)
    parser.format_help()  # names the groups
    for group in parser._action_groups:
        start = text.find(f"\n{group.title}:\n")
        section = text[start : text.find("\n\n", start)]
        for action in group._group_actions:
            for option in action.option_strings:
                assert has(section, option) != (action.help == argparse.SUPPRESS), option
    options = [option for action in parser._actions for option in action.option_strings if has(text, option)]
    hidden = [option for option in options if not has(short, option)]
    assert ("More options by group: " in short) == (hidden not in ([], ["--help-all"])) and "%(" not in text


@pytest.mark.parametrize("name", ["pretrain", "downstream", "timing"])
def test_rare_options_are_in_the_whole_help_only(name, capsys):
    rare = {"pretrain": "--student", "downstream": "--disable_cudnn", "timing": "--tf32"}[name]
    assert not has(shown(name, "-h", capsys), rare) and has(shown(name, "--help-all", capsys), rare)


def test_the_help_has_every_option_of_the_readmes_commands(capsys):
    readme = next(page for page in PAGES if page.name == "README.md")
    used = {
        (found[0], word)
        for words in commands(readme)
        if words[0] != "make" and (found := called(words))
        for word in found[1]
        if word.startswith("-")
    }
    assert len(used) > 8
    assert [(name, option) for name, option in sorted(used) if not has(shown(name, "-h", capsys), option)] == []


def test_an_example_in_a_help_is_a_command_that_the_program_takes(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    number = 0
    for name in COMMANDS:
        text = shown(name, "-h", capsys)
        for line in re.findall(r"^  (python .*)$", text, flags=re.M):
            script, options = called(line.partition(" #")[0].split())
            parser_of(script).parse_args(options)
            number += 1
    assert number > 2 * len(COMMANDS) - 4
