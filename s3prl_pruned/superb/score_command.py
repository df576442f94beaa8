"""The command line of ``tools/superb_score.py``."""

from __future__ import annotations

import argparse
from pathlib import Path

from s3prl_pruned.superb.table import as_text, make_rows, table1_text, write_table


def main(argv: list[str] | None = None) -> None:
    """Print the table and write it as JSON and CSV.

    Raises:
        UserError: on results that are missing, half-written, impossible, or of several models in one row.
    """
    parser = argparse.ArgumentParser(
        prog="superb_score.py",
        description="SUPERB metrics and score of each upstream, on the paper's and the leaderboard's scale.",
    )
    parser.add_argument("results", nargs="?", type=Path, metavar="DIR",
        help="results/, one upstream's folder in it, or one task's; superb_score.{json,csv} are written there")
    parser.add_argument("--table1", action="store_true",
        help="recompute the scores of the paper's Table 1 from its metrics")
    options = parser.parse_args(argv)  # fmt: skip
    if options.results is None and not options.table1:
        parser.error("give the folder of results, such as results/, or --table1")
    if options.table1:
        print(table1_text())
    if options.results is not None:
        rows, unfinished = make_rows(options.results)
        print(as_text(rows, unfinished))
        print("\nwritten:", *write_table(options.results, rows, unfinished))
