"""Metrics and SUPERB score of each upstream, in one table: `tools/superb_score.py`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.own_commands import Parser
from s3prl_pruned.report.score_side_by_side import as_markdown, as_wide_text
from s3prl_pruned.superb.results.collect import folders_of
from s3prl_pruned.superb.results.result import read_json
from s3prl_pruned.superb.results.s3prl_runs.found import References
from s3prl_pruned.superb.score import mini_score
from s3prl_pruned.superb.score.scored_models import (
    ScoredModel,
    given_models,
    measured_models,
    published_models,
    saved_models,
)
from s3prl_pruned.superb.score.table import as_csv, as_data, as_text, table1_text, write_table

FORMATS = {
    "table": as_wide_text,
    "markdown": as_markdown,
    "csv": lambda rows, unfinished: as_csv(rows).rstrip("\n"),
    "json": lambda rows, unfinished: json.dumps(as_data(rows, unfinished), indent=2, allow_nan=False),
}


def main(argv: list[str] | None = None) -> None:
    """Print the table and write it as JSON and CSV.

    Raises:
        UserError: on results that are missing, half-written, impossible, contradicting, given twice, or of several
            models in one row.
    """
    parser = make_parser()
    options = parser.parse_intermixed_args(argv)
    if not (options.results or options.table1 or options.published):
        parser.error("give the folder of results, such as results/, or --published, or --table1")
    if options.intervals and options.format in ("csv", "json"):
        parser.error("--intervals stand below a table; give no --format csv or json with it")
    if options.table1:
        print(table1_text())
    if not (options.results or options.published):
        return
    rows, unfinished = _read(options)
    rows, times = _with_times(rows, options)
    if options.mini_score is not None:
        _print_mini_scores(rows, options)
        return
    if options.compare is not None:
        _print_comparison(rows, options)
        return
    # One folder and nothing else: the detailed table, and its files beside the results.
    (root,) = options.results if len(options.results) == 1 else [None]
    alone = root is not None and root.is_dir() and not options.published and options.timing is None
    if options.format is None and root is not None and alone:
        print(as_text(rows, unfinished))
        print("\nwritten:", *write_table(root, rows, unfinished))
    else:
        print(FORMATS[options.format or "table"](rows, unfinished))
    if options.intervals:
        from s3prl_pruned.report.comparison import intervals_text  # its drivers take a second to import

        print(f"\n{intervals_text(rows, _folders(options), _references(options))}")
    if options.figure is not None:
        _draw(options.figure, rows, times, quiet=options.format in ("csv", "json"))


def make_parser() -> Parser:
    """The parser."""
    parser = Parser(
        "score",
        description="SUPERB metrics and score of each upstream, on the paper's and the leaderboard's scale.",
    )
    parser.add_argument(
        "results",
        nargs="*",
        type=Path,
        metavar="DIR or FILE",
        help="results/, one upstream's folder in it, one task's, or s3prl's result/downstream/; or a table that this "
        "command wrote as JSON; or numbers written by hand, in YAML: "
        "- {model: NAME, params_millions: 26.6, asr: {wer: {value: 10.6, unit: percent}}}. Of one folder alone the "
        "table is in detail, and superb_score.{json,csv} are written there",
    )
    parser.add_argument(
        "--published", action="store_true", help="published models beside them, with parameters, MACs and source"
    )
    parser.add_argument(
        "--timing",
        type=Path,
        metavar="FILE",
        help="timing.json of tools/timing.py, with 5 s among its lengths: its times and MACs stand beside the scores; "
        "published models' are in it where it was made with --peers",
    )
    parser.add_argument(
        "--format", choices=list(FORMATS), help="side by side, one line per upstream, to the screen only"
    )
    parser.add_argument(
        "--mini-score",
        metavar="FBANK,TEACHER",
        help="the rows' mini-score in place of the table: 0 is the first of these two rows, 1000 the second. For "
        "corpora and settings that are not SUPERB's",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="are two rows different by more than chance? Every task that both have, from the files of their runs, in "
        "place of the table: MAPSSWE for WER and PER, McNemar for accuracies, the bootstrap for the rest",
    )
    parser.add_argument(
        "--intervals", action="store_true", help="95 %% bootstrap intervals of every metric, below the table"
    )
    parser.add_argument(
        "--figure",
        type=Path,
        metavar="PNG",
        help="draw the score against parameters, MACs and (--timing) time, with the Pareto front of each",
    )
    parser.add_argument(
        "--quesst14",
        type=Path,
        metavar="DIR",
        help="quesst14Database, to score s3prl's own QbE runs (ours are scored when they are run)",
    )
    parser.add_argument("--rttm", type=Path, metavar="FILE", help="the test set's rttm, to score s3prl's own SD runs")
    parser.add_argument(
        "--table1", action="store_true", help="recompute the scores of the paper's Table 1 from its metrics"
    )
    return parser


def _read(options: argparse.Namespace) -> tuple[list[ScoredModel], list[Path]]:
    rows: list[ScoredModel] = []
    unfinished: list[Path] = []
    origins: dict[str, Path] = {}
    for path in options.results:
        if path.suffix.lower() in (".yaml", ".yml"):
            found, begun = given_models(path), list[Path]()
        elif path.suffix.lower() == ".json":
            found, begun = saved_models(path)
        else:
            found, begun = measured_models(path, _references(options))
        for row in found:
            other = origins.setdefault(row.name, path)
            if any(row.name == known.name for known in rows):
                raise UserError(f"{path}: a second row {row.name}, beside the one of {other}. Rename one of them.")
            rows.append(row)
        unfinished += begun
    return rows + (published_models() if options.published else []), unfinished


def _references(options: argparse.Namespace) -> References:
    return References(quesst14=options.quesst14, diarization=options.rttm)


def _folders(options: argparse.Namespace) -> dict[str, dict[str, list[Path]]]:
    """Where the rows' runs lie, by row and task."""
    return {name: runs for path in options.results if path.is_dir() for name, runs in folders_of(path).items()}


def _print_comparison(rows: list[ScoredModel], options: argparse.Namespace) -> None:
    from s3prl_pruned.report import comparison  # its drivers take a second to import

    by_name, folders = {row.name: row for row in rows}, _folders(options)
    for name in options.compare:
        if name not in folders or name not in by_name:
            raise UserError(
                f"--compare {name}: must be a row with runs in a folder: {', '.join(folders) or 'none is'}."
            )
    first, second = options.compare
    found = comparison.compare(by_name[first], by_name[second], folders, _references(options))
    print(comparison.as_text(found, (first, second)))


def _print_mini_scores(rows: list[ScoredModel], options: argparse.Namespace) -> None:
    low, comma, high = options.mini_score.partition(",")
    if not comma or options.format not in (None, "table", "json"):
        raise UserError(
            "--mini-score takes FBANK,TEACHER (two rows' names), and prints a table or JSON, but is "
            f"{options.mini_score!r}."
        )
    found = (*mini_score.mini_scores(rows, low, high), low, high)
    as_json = options.format == "json"
    print(json.dumps(mini_score.as_data(*found), indent=2, allow_nan=False) if as_json else mini_score.as_text(*found))


def _with_times(rows: list[ScoredModel], options: argparse.Namespace) -> tuple[list[ScoredModel], str | None]:
    """The rows with what a timing document says of them, and what its times are of."""
    if options.timing is None:
        return rows, None
    from s3prl_pruned.report import score_times, timing

    path = str(options.timing)
    if not options.timing.is_file():
        raise UserError(
            f"{path}: no such file. Write one: tools/timing.py --peers --models <your export> --lengths 5 --output DIR."
        )
    data = timing.check_document(read_json(options.timing), path)
    with timing.FILES.damage_named(path):
        rows, notes = score_times.with_times(rows, data, path)
        for note in notes:
            print(note, file=sys.stderr)
        return rows, score_times.measured_on(data)


def _draw(path: Path, rows: list[ScoredModel], times: str | None, *, quiet: bool) -> None:
    from s3prl_pruned.report.score_figure import left_out, write_figure

    write_figure(path, rows, times=times)
    if not quiet:
        print(f"\ndrawn: {path}", *(f"not in every panel: {reason}" for reason in left_out(rows)), sep="\n")
