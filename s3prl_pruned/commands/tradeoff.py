"""Report the quality and the cost of exported models: table, figures, HTML page: `tools/tradeoff.py`."""

from pathlib import Path

from s3prl_pruned.parsers import Parser

EXAMPLES = """
python tools/tradeoff.py result/ results/                        # measures the inference times
python tools/tradeoff.py result/ results/ --timing timing.json   # reads them from a file
python tools/tradeoff.py result/ results/ --cards                # also fills in model cards
python tools/tradeoff.py --table downstream_runs/tradeoff.json   # prints an earlier report
"""


def make_parser() -> Parser:
    """The parser."""
    parser = Parser("tradeoff", usage="RESULT [RESULTS ...] [OPTION ...]", examples=EXAMPLES)
    add = parser.add_argument
    add("exports", nargs="?", type=Path, metavar="RESULT", help="folder that contains exported models at any depth")
    add("results", nargs="*", type=Path, metavar="RESULTS", help="folders of results, as for tools/superb_score.py")
    add(
        "--model",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="add an encoder in another format, such as DPHuBERT's; may be repeated",
    )
    add(
        "--timing",
        type=Path,
        metavar="JSON",
        help="take the times (5 s of audio) from this file of tools/timing.py, or from an earlier report",
    )
    add(
        "--repeats",
        type=int,
        default=11,
        metavar="N",
        help="timed runs per model; 0 skips the timing (default: %(default)s)",
    )
    add("--threads", type=int, default=1, metavar="N", help="CPU threads while timing (default: %(default)s)")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        default=Path("result/tradeoff"),
        help="new folder for the report (default: %(default)s)",
    )
    add("--cards", action="store_true", help="also write the measured times into the model cards of the exports")
    add("--table", type=Path, metavar="JSON", help="print an earlier report; with --output, also write it again")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Make and write the report, or print an earlier one.

    Args:
        argv: command line; None is the process's own.
    """
    parser = make_parser()
    args = parser.parse_args(argv)
    if (args.exports is None) == (args.table is None):
        parser.error("name a folder of exported models, such as result/, or use --table")

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
