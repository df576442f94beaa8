"""`s3prl-pruned`: all commands in one, from any folder.

    s3prl-pruned pretrain -u wavlm_pruned_distill
    torchrun --nproc_per_node=8 -m s3prl_pruned.commands pretrain -u wavlm_pruned_distill

A command's modules are imported when it is called, so that `-h` and a misspelt command are answered quickly.
"""

import argparse
import difflib
import importlib
import sys

import s3prl_pruned
from s3prl_pruned.command_line import command_line
from s3prl_pruned.own_commands import COMMANDS, CONSOLE

SHELLS = ("bash", "zsh", "tcsh")


def main(argv: list[str] | None = None) -> None:
    """Run the command that the first word names.

    Args:
        argv: command line; None is the process's own.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    if argv and argv[0] in COMMANDS:
        importlib.import_module(f"s3prl_pruned.commands.{argv[0]}").main(argv[1:])
    elif argv and not argv[0].startswith("-"):
        nearest = difflib.get_close_matches(argv[0], COMMANDS, n=1, cutoff=0.0)[0]
        parser.error(f"there is no command {argv[0]!r}. Did you mean `{nearest}`?")
    elif shell := parser.parse_args(argv).completion:
        from s3prl_pruned.commands.completion import script

        print(script(parser, shell))
    else:
        parser.error(f"a command is missing, such as `{CONSOLE} pretrain -u wavlm_pruned_distill`")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the words before a command."""
    listing = "\n".join(f"  {name:<12}{command.summary}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=CONSOLE,
        usage="%(prog)s COMMAND [OPTION ...]",
        description="Prune self-supervised speech encoders by distillation, and evaluate them on SUPERB.",
        epilog=f"commands:\n{listing}\n\nOptions of a command: `{CONSOLE} COMMAND -h`, or `--help-all` for all.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {s3prl_pruned.__version__}")
    parser.add_argument("--completion", choices=SHELLS, help="print the completion script of this shell and exit")
    return parser


def console() -> None:
    """The process of `s3prl-pruned`."""
    command_line(main)


if __name__ == "__main__":
    sys.argv[0] = CONSOLE
    console()
