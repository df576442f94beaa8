"""The completion script of a shell: `s3prl-pruned --completion bash`."""

import argparse
import importlib

from s3prl_pruned.config import UserError
from s3prl_pruned.own_commands import COMMANDS

FOLDERS = ("DIR", "EXPORT", "FOLDER", "RESULT", "RESULTS")
FILES = ("CKPT", "FILE", "JSON", "MODEL", "OUTPUT", "PATH", "PNG", "SOURCE", "TARGET", "WHISPER", "YAML", "ZIP")
"""Names of values that are completed from the file system."""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script that completes commands, options and paths.

    Args:
        parser: of the words before a command; the commands' own parsers are added to it.
        shell: bash, zsh or tcsh.

    Raises:
        UserError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise UserError(
            "completion needs shtab, which is not installed: pip install s3prl_pruned[completion]"
        ) from None
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, command in COMMANDS.items():
        own = importlib.import_module(f"s3prl_pruned.commands.{name}").make_parser()
        for action in own._actions:
            if action.metavar in FILES:
                action.complete = shtab.FILE
            elif action.metavar in FOLDERS:
                action.complete = shtab.DIRECTORY
        commands.add_parser(name, parents=[own], add_help=False, help=command.summary)
    return shtab.complete(parser, shell=shell)
