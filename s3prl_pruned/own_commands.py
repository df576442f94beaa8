"""Our commands and their two ways of being called: by the clone's scripts, and by `s3prl-pruned` of an installation.

Texts name the scripts (`python run_pretrain.py`). Where `s3prl-pruned` was called, or there is no clone, they are shown
with its commands in their place (`as_typed`): in helps and in errors.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from s3prl_pruned.resources import PACKAGE

CONSOLE = "s3prl-pruned"
"""The console command's name."""


@dataclass(frozen=True)
class OwnCommand:
    """A command."""

    script: str
    """In the clone, from its root."""
    summary: str


COMMANDS = {
    "pretrain": OwnCommand("run_pretrain.py", "distil and prune an encoder"),
    "downstream": OwnCommand("run_downstream.py", "train a SUPERB task on an upstream's features, and evaluate it"),
    "score": OwnCommand("tools/superb_score.py", "metrics and SUPERB score of results, in one table"),
    "suite": OwnCommand("tools/superb_suite.py", "SUPERB tasks of one or several upstreams: planned, run, scored"),
    "sweep": OwnCommand(
        "tools/sweep.py", "prune by several recipes at several rates, and run tasks of what comes of it"
    ),
    "timing": OwnCommand("tools/timing.py", "time models beside each other, or write a latency table"),
    "tradeoff": OwnCommand(
        "tools/tradeoff.py", "what exported models cost and what they are worth: table and pictures"
    ),
    "export": OwnCommand("tools/export.py", "export a model as a folder, for transformers, or as ONNX"),
    "convert": OwnCommand("tools/convert_checkpoint.py", "convert a dense checkpoint from one format to another"),
    "extract": OwnCommand("tools/extract_features.py", "write an encoder's hidden states of a folder of audio"),
    "prepare": OwnCommand("tools/prepare_data.py", "make the manifest of a corpus, for a quick start of pretrain"),
    "quickstart": OwnCommand("tools/quickstart.py", "prune, transfer and score on the embedded speech, in minutes"),
}
"""By name; `s3prl_pruned.commands` has a module of each name."""

_NAMES = {command.script: name for name, command in COMMANDS.items()}
_SCRIPT = re.compile(rf"(?<![\w./-])(?:python )?({'|'.join(map(re.escape, _NAMES))})(?!\w)")


def by_console() -> bool:
    """Whether the user calls our commands by `s3prl-pruned`: this process was called so, or there is no clone."""
    return Path(sys.argv[0]).stem == CONSOLE or not (PACKAGE.parent / COMMANDS["score"].script).is_file()


def call(name: str) -> tuple[str, ...]:
    """How a process of ours calls a command; its options follow. A script is called from the clone's root."""
    return (sys.executable, *(("-m", "s3prl_pruned.commands", name) if by_console() else (COMMANDS[name].script,)))


def as_typed(text: str) -> str:
    """A text that names scripts of the clone, with the commands that the user can type in their place."""
    return _SCRIPT.sub(lambda found: f"{CONSOLE} {_NAMES[found[1]]}", text) if by_console() else text


def typed(name: str, *options: str) -> str:
    """A command as the user types it."""
    return as_typed(shlex.join(["python", COMMANDS[name].script, *options]))


def option_of(words: Sequence[str], name: str) -> str | None:
    """The value that words of a command line give an option, such as `--device cpu`; None where they do not."""
    return next((value for word, value in pairwise(words) if word == name), None)


class Parser(argparse.ArgumentParser):
    """The parser of one of our commands; its help and its errors name commands as the user types them.

    Args:
        name: of the command.
        settings: as of `argparse.ArgumentParser`.
    """

    def __init__(self, name: str, **settings: object):
        script = Path(COMMANDS[name].script).name
        super().__init__(prog=f"{CONSOLE} {name}" if by_console() else script, **settings)  # type: ignore[arg-type]  # handed on as they are

    def format_help(self) -> str:
        """The help, as `as_typed`."""
        return as_typed(super().format_help())

    def error(self, message: str) -> NoReturn:
        """End with exit status 2 and the message, as `as_typed`."""
        super().error(as_typed(message))


class PlanParser(Parser):
    """The parser of a command that makes many calls of others; what follows `--` goes to them."""

    def add_parallel_options(self) -> None:
        """`--jobs`, `--devices`, `--jobs-per-device` and `--threads`."""
        self.add_argument("--jobs", metavar="N", type=int, default=1, help="calls at a time (default: %(default)s)")
        self.add_argument(
            "--devices", metavar="N,N", help="GPUs that the calls are shared out over, or none (default: all)"
        )
        self.add_argument(
            "--jobs-per-device",
            metavar="N",
            type=int,
            default=1,
            help="calls that share a GPU, where its memory allows it (default: %(default)s)",
        )
        self.add_argument(
            "--threads", metavar="N", type=int, default=1, help="CPU threads of each (default: %(default)s)"
        )

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
