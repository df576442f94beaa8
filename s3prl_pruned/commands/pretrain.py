"""Prune a speech encoder, then draw the figures of the run: `run_pretrain.py`."""

import os
from pathlib import Path

from s3prl_pruned.parsers import Parser


def make_parser() -> Parser:
    """The parser."""
    from s3prl_pruned.pretrain.resolve import make_parser

    return make_parser()


def main(argv: list[str] | None = None) -> None:
    """Train, export, draw the figures.

    Args:
        argv: command line; None is the process's own.
    """
    from s3prl_pruned.gates.distribution import write_hard_concrete
    from s3prl_pruned.pretrain.command import main as pretrain
    from s3prl_pruned.report.figures import draw_run
    from s3prl_pruned.report.live import draw_remaining

    def draw(folder: Path) -> None:
        draw_remaining(folder)

    def finish(folder: Path) -> None:
        if not os.access(folder, os.W_OK):  # read from an archive
            return
        write_hard_concrete(folder)
        for picture in draw_run(folder):
            print(f"figure: {picture}")

    pretrain(argv, on_checkpoint=draw, on_finished=finish)
