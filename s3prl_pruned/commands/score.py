"""The metrics and the SUPERB score of each upstream, in one table: `tools/superb_score.py`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.parsers import Parser
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

EXAMPLES = """
python tools/superb_score.py results/
python tools/superb_score.py results/ --published --format markdown
python tools/superb_score.py results/ --compare wavlm_pruned hubert_pruned
"""
NOTES = """
For one folder and no other option the table is detailed, and superb_score.json and .csv are written
into the folder. The timing.json must contain 5 s of audio; with --peers it also has the published
models. --compare uses MAPSSWE for WER and PER, McNemar's test for accuracies, else the bootstrap.

Your own numbers, in YAML:
  - {model: NAME, params_millions: 26.6, asr: {wer: {value: 10.6, unit: percent}}}
"""
FORMATS = {
    "table": as_wide_text,
    "markdown": as_markdown,
    "csv": lambda rows, unfinished: as_csv(rows).rstrip("\n"),
    "json": lambda rows, unfinished: json.dumps(as_data(rows, unfinished), indent=2, allow_nan=False),
}


def main(argv: list[str] | None = None) -> None:
    """Print the table and write it as JSON and CSV.

    Raises:
        UserError: results are missing, incomplete, out of range, contradictory or repeated, or one row mixes several
            models.
    """
    parser = make_parser()
    options = parser.parse_intermixed_args(argv)
    if not (options.results or options.table1 or options.published):
        parser.error("name a folder of results, such as results/, or add --published or --table1")
    if options.intervals and options.format in ("csv", "json"):
        parser.error("--intervals cannot be used with --format csv or json")
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
    # One folder and nothing else: the detailed table, also written into the folder.
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
    parser = Parser("score", usage="[OPTION ...] [PATH ...]", examples=EXAMPLES, notes=NOTES)
    add = parser.add_argument
    add(
        "results",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="folder of results (results/, one upstream, one task, or s3prl's result/downstream/), a JSON table of "
        "this command, or a YAML file of your own numbers",
    )
    add("--published", action="store_true", help="add published models, with parameters, MACs and sources")
    add("--format", metavar="FORMAT", choices=list(FORMATS), help="print only, one row per upstream: %(choices)s")
    add("--intervals", action="store_true", help="add 95 %% bootstrap intervals of all metrics")
    add("--compare", nargs=2, metavar=("A", "B"), help="test the differences between two rows for significance")
    add(
        "--figure",
        type=Path,
        metavar="PNG",
        help="plot the score against parameters, MACs and (with --timing) time, with Pareto fronts",
    )
    add("--timing", type=Path, metavar="FILE", help="add times and MACs from a timing.json of tools/timing.py (5 s)")
    add(
        "--mini-score",
        metavar="FBANK,TEACHER",
        help="print a score for corpora other than SUPERB's: 0 for the first of these two rows, 1000 for the second",
    )
    add = parser.add_argument_group("s3prl's own runs").add_argument
    add("--quesst14", type=Path, metavar="DIR", help="quesst14Database, to score QbE")
    add("--rttm", type=Path, metavar="FILE", help="rttm of the test set, to score SD")
    add = parser.add_argument_group("checks").add_argument
    add("--table1", action="store_true", help="recompute the scores in the paper's Table 1 from its metrics")
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
                raise UserError(f"{path}: contains row {row.name}, which {other} contains too. Rename one of them.")
            rows.append(row)
        unfinished += begun
    return rows + (published_models() if options.published else []), unfinished


def _references(options: argparse.Namespace) -> References:
    return References(quesst14=options.quesst14, diarization=options.rttm)


def _folders(options: argparse.Namespace) -> dict[str, dict[str, list[Path]]]:
    """The folders of the rows' runs, by row and task."""
    return {name: runs for path in options.results if path.is_dir() for name, runs in folders_of(path).items()}


def _print_comparison(rows: list[ScoredModel], options: argparse.Namespace) -> None:
    from s3prl_pruned.report import comparison  # its drivers take a second to import

    by_name, folders = {row.name: row for row in rows}, _folders(options)
    for name in options.compare:
        if name not in folders or name not in by_name:
            raise UserError(
                f"`--compare` must be two rows with runs in a folder ({', '.join(folders) or 'there are none'}), but "
                f"one is {name!r}."
            )
    first, second = options.compare
    found = comparison.compare(by_name[first], by_name[second], folders, _references(options))
    print(comparison.as_text(found, (first, second)))


def _print_mini_scores(rows: list[ScoredModel], options: argparse.Namespace) -> None:
    low, comma, high = options.mini_score.partition(",")
    if not comma or options.format not in (None, "table", "json"):
        raise UserError(
            "`--mini-score` must be two rows, FBANK,TEACHER, with --format table or json, but is "
            f"{options.mini_score!r}."
        )
    found = (*mini_score.mini_scores(rows, low, high), low, high)
    as_json = options.format == "json"
    print(json.dumps(mini_score.as_data(*found), indent=2, allow_nan=False) if as_json else mini_score.as_text(*found))


def _with_times(rows: list[ScoredModel], options: argparse.Namespace) -> tuple[list[ScoredModel], str | None]:
    """The rows with their times from a timing document, and the hardware of these times."""
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
        print(f"\nfigure: {path}", *(f"missing in some panels: {reason}" for reason in left_out(rows)), sep="\n")
