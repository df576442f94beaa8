"""The three commands on the embedded default, and one screen of what came of them; what `make run` calls."""

import sys

from s3prl_pruned.own_commands import Parser


def make_parser() -> Parser:
    """The parser."""
    return Parser(
        "quickstart",
        description="Distil and prune the embedded teacher, recognise speech with FBANK, the teacher and the pruned "
        "model, score them, and end with one screen (also result/quickstart.md and .json). A second call reuses what "
        "stands. Takes no options.",
    )


def main(argv: list[str] | None = None) -> None:
    """Run all; exits with the status of the part that failed.

    Args:
        argv: command line; None is the process's own.
    """
    make_parser().parse_args(argv)

    from s3prl_pruned.commands.run_quickstart import run_quickstart

    sys.exit(run_quickstart())
