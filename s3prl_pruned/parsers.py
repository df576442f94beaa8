"""The argument parsers of our commands: `-h` fits on a screen, `--help-all` lists every option by group."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from s3prl_pruned.own_commands import COMMANDS, CONSOLE, as_typed, by_console

WIDTH = 100
"""Columns of a help, where the terminal is not narrower."""


class Parser(argparse.ArgumentParser):
    """The parser of one of our commands; its help and its errors name commands as the user types them.

    Options that are added to the parser itself are the common ones, shown by `-h`. Options of its groups
    (`add_argument_group`) are shown by `--help-all` only. Without groups `-h` shows everything.

    Args:
        name: of the command.
        usage: the most common form, without the command itself.
        examples: commands, one a line.
        notes: the end of the whole help.
    """

    def __init__(self, name: str, *, usage: str = "", examples: str = "", notes: str = ""):
        prog = f"{CONSOLE} {name}" if by_console() else Path(COMMANDS[name].script).name
        super().__init__(
            prog=prog,
            usage=f"%(prog)s {usage}".strip(),
            description=f"{COMMANDS[name].summary}.",
            formatter_class=_Formatter,
            add_help=False,
        )
        self._examples, self._notes = examples.strip(), notes.strip()
        self._positionals.title = "arguments"
        self._common = [*self._action_groups]
        self.add_argument("-h", "--help", action="help", help="show this help and exit")
        self._help_all = self.add_argument("--help-all", action=_HelpAll, help="show all options by group and exit")

    def format_help(self) -> str:
        """The help on a screen: common options only."""
        return self._help(everything=False)

    def format_full_help(self) -> str:
        """The help with all options, by group."""
        return self._help(everything=True)

    def _help(self, *, everything: bool) -> str:
        grouped = len(self._action_groups) > len(self._common)
        self._optionals.title = "common options" if grouped else "options"
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        if self._examples:
            formatter.add_text("\n".join(["examples:", *(f"  {line}" for line in self._examples.splitlines())]))
        for group in self._action_groups if everything else self._common:
            formatter.start_section(group.title)
            formatter.add_arguments(a for a in group._group_actions if everything or a is not self._help_all)
            formatter.end_section()
        whole = everything or not grouped
        formatter.add_text(self._notes if whole else f"More options by group: {self.prog} --help-all")
        return as_typed(formatter.format_help())

    def error(self, message: str) -> NoReturn:
        """End with exit status 2 and the message, as `as_typed`."""
        super().error(as_typed(message))


class PlanParser(Parser):
    """The parser of a command that makes many calls of others; what follows `--` is passed to them."""

    def add_parallel_options(self) -> None:
        """`--jobs`, and a group with `--devices`, `--jobs-per-device` and `--threads`."""
        self.add_argument(
            "--jobs", metavar="N", type=int, default=1, help="number of parallel jobs (default: %(default)s)"
        )
        add = self.add_argument_group("parallel jobs").add_argument
        add("--devices", metavar="N,N", help="GPUs to distribute the jobs over, or none (default: all)")
        add(
            "--jobs-per-device",
            metavar="N",
            type=int,
            default=1,
            help="number of jobs that share a GPU, if its memory is large enough (default: %(default)s)",
        )
        add("--threads", metavar="N", type=int, default=1, help="CPU threads per job (default: %(default)s)")

    def parse_calls(self, argv: Sequence[str] | None) -> tuple[argparse.Namespace, Sequence[str]]:
        """The command's own options, and those of its calls.

        Args:
            argv: command line; None is the process's own.
        """
        words = sys.argv[1:] if argv is None else argv
        split = words.index("--") if "--" in words else len(words)
        args = self.parse_args(words[:split])
        if min(args.jobs, args.threads, args.jobs_per_device) < 1:
            self.error("--jobs, --jobs-per-device and --threads must be at least 1")
        return args, words[split + 1 :]


class _HelpAll(argparse.Action):
    """`--help-all`: print the whole help and exit."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None):
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *unused: object) -> NoReturn:
        assert isinstance(parser, Parser)
        print(parser.format_full_help(), end="")
        parser.exit()


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Short lines: an option's value once (as Python 3.13 has it), `NAME ...` for several values."""

    def __init__(self, prog: str):
        width = min(shutil.get_terminal_size().columns, WIDTH) - 2
        super().__init__(prog, max_help_position=28, width=width)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return f"{action.metavar} ..." if action.nargs == "+" else super()._format_args(action, default_metavar)
