"""What each exported model costs and what it is worth: one table, pictures, and one page to send.

python tools/tradeoff.py result/ results/                          # times all models beside one another
python tools/tradeoff.py result/ results/ --timing timing.json     # times from tools/timing.py, or of an earlier report
python tools/tradeoff.py result/ results/ --model pruned_hubert_base.pth     # with an encoder that others publish
python tools/tradeoff.py result/ results/ --cards                  # also write the times into the models' cards
python tools/tradeoff.py --table downstream_runs/tradeoff.json     # the Markdown table of a report written before
python tools/tradeoff.py --table downstream_runs/tradeoff.json --output report     # all its files, drawn anew

The page, tradeoff.html, is one file that needs no network: pictures, a table that sorts, all numbers as CSV.
"""

import argparse
from pathlib import Path

from s3prl_pruned.own_commands import Parser


def make_parser() -> Parser:
    """The parser."""
    parser = Parser("tradeoff", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("exports", nargs="?", type=Path, metavar="RESULT", help="folder with exported models, at any depth")
    add("results", nargs="*", type=Path, metavar="RESULTS", help="folders that tools/superb_score.py reads")
    add(
        "--model",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="an encoder in any other format that is read, such as DPHuBERT's, beside them; may be repeated",
    )
    add("--timing", type=Path, metavar="JSON", help="take times from here (5 s of audio) in place of measuring them")
    add(
        "--repeats",
        type=int,
        default=11,
        metavar="N",
        help="timed runs of each model; 0 times nothing (default: %(default)s)",
    )
    add("--threads", type=int, default=1, metavar="N", help="of the timing (default: %(default)s)")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        default=Path("result/tradeoff"),
        help="new folder of the report (default: %(default)s)",
    )
    add(
        "--table",
        type=Path,
        metavar="JSON",
        help="read nothing else: print the table of this report; with --output in a folder of its own, draw it anew",
    )
    add("--cards", action="store_true", help="also write the measured times into the model cards of the exports")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Gather and write the report, or print an earlier one.

    Args:
        argv: command line; None is the process's own.
    """
    parser = make_parser()
    args = parser.parse_args(argv)
    if (args.exports is None) == (args.table is None):
        parser.error("give a folder of exported models, such as result/, or --table")

    from s3prl_pruned.report import tradeoff_report
    from s3prl_pruned.superb.results.result import read_json

    if args.cards and (args.table or not (args.repeats or args.timing)):
        parser.error("--cards writes times that are measured: leave out --table, and --repeats 0 without --timing")
    if args.table:
        data = tradeoff_report.check_document(read_json(args.table), str(args.table))
        with tradeoff_report.FILES.damage_named(str(args.table)):
            print(tradeoff_report.markdown(data), end="")
            if args.output != parser.get_default("output"):
                print("written: " + ", ".join(map(str, tradeoff_report.write(data, args.output))))
        return
    tradeoff_report.refuse_existing(args.output)

    from s3prl_pruned.report.tradeoff import gather
    from s3prl_pruned.superb.score.scored_models import measured_models
    from s3prl_pruned.timing.exports import measure

    timing = read_json(args.timing) if args.timing else None
    timing = timing.get("timing", timing) if timing else None  # of an earlier report
    rows = [row for folder in args.results for row in measured_models(folder)[0]]
    repeats = 0 if timing else args.repeats
    costs, measured = measure([args.exports], also=args.model, repeats=repeats, threads=args.threads)
    data = gather(costs, rows, timing=timing or measured)
    print(tradeoff_report.markdown(data), end="")
    print("written: " + ", ".join(map(str, tradeoff_report.write(data, args.output))))
    if args.cards:
        from s3prl_pruned.report.card_times import write_times

        print("times written: " + ", ".join(map(str, write_times(data))))
