"""The three commands on the embedded data, and a summary of the results: what `make run` calls."""

import sys

from s3prl_pruned.parsers import Parser

NOTES = """
Prunes the embedded teacher, trains speech recognition on FBANK, the teacher and the pruned model,
scores them, and prints a summary (also result/quickstart.md and .json). A second call reuses what
is finished. There are no options.
"""


def make_parser() -> Parser:
    """The parser."""
    return Parser("quickstart", usage="[-h]", notes=NOTES)


def main(argv: list[str] | None = None) -> None:
    """Run all parts; exits with the status of the one that failed.

    Args:
        argv: command line; None is the process's own.
    """
    make_parser().parse_args(argv)

    from s3prl_pruned.commands.run_quickstart import run_quickstart

    sys.exit(run_quickstart())
