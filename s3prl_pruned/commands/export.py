"""Export a model as a folder, for transformers, or as ONNX: `tools/export.py`."""

import argparse
from pathlib import Path

from s3prl_pruned.formats import WRITES
from s3prl_pruned.parsers import Parser

TARGETS = [name for name, encoders in WRITES.items() if encoders == "pruned"]


def make_parser() -> Parser:
    """The parser."""
    parser = Parser(
        "export",
        usage="SOURCE TARGET [--to FORMAT] [--int8]",
        examples="""
python tools/export.py result/pretrain/wavlm_pruned_distill/embedded/states-500.ckpt my_export
python tools/export.py states-500.ckpt my_smaller --at 0.9
python tools/export.py my_export my_model --to huggingface
python tools/export.py my_export my_model.onnx --to onnx
""",
    )
    add = parser.add_argument
    add(
        "source",
        metavar="SOURCE",
        help="checkpoint of run_pretrain.py (pruned by its masks), an exported folder, or any readable checkpoint",
    )
    add("path", metavar="TARGET", help="new file or folder; never overwritten")
    add(
        "--to",
        metavar="FORMAT",
        default="folder",
        choices=TARGETS,
        help="format of TARGET: %(choices)s (default: %(default)s, this project's own)",
    )
    add("--int8", action="store_true", help="int8 weights and matrix products for CPU inference (--to folder only)")
    _add_sizes(parser.add_argument_group("other sizes from the same gates (of a states-*.ckpt)"))
    return parser


def _add_sizes(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--at",
        metavar="X",
        help="export at target X instead of the run's: a share to remove, or params=X, macs=X, speedup=X",
    )
    which.add_argument(
        "--targets", metavar="X,X", help="write a new folder with a table and a figure of several targets, as for --at"
    )
    add("--export", action="store_true", help="with --targets: also write each of them as a model")
    add("--time", type=int, default=0, metavar="N", help="with --targets: also time the models, N runs of each")
    add("--threads", type=int, default=1, metavar="N", help="CPU threads for --time (default: %(default)s)")
    add(
        "--no-loss",
        action="store_true",
        help="with --targets: skip the held-out loss, which needs the teacher and the speech",
    )
    add("--teacher", metavar="T", help="teacher for the held-out loss (default: the run's)")
    add("--corpus", metavar="DIR", help="speech for the held-out loss (default: the run's)")
    add("--device", default="cpu", help="torch device for losses and times (default: %(default)s)")
    add("--latency-table", metavar="JSON", help="for expected times and speedup=X, if the run has no table")


def main(argv: list[str] | None = None) -> None:
    """Export, and print what was written.

    Args:
        argv: command line; None is the process's own.
    """
    parser = make_parser()
    args = parser.parse_args(argv)
    _refuse_idle(parser, args)

    if args.targets:
        _look(args)
        return
    from s3prl_pruned.pretrain.conversion import convert
    from s3prl_pruned.pretrain.finish import describe_export

    if args.at:
        from s3prl_pruned.commands.run_structures import export_at

        about = export_at(args.source, args.path, args.at, args.to, int8=args.int8, latency_table=args.latency_table)
    else:
        about = convert(args.source, args.path, args.to, int8=args.int8)
    ours = args.to in ("folder", "huggingface")
    print(f"{about}: exported to {describe_export(args.path) if ours else args.path}")


def _refuse_idle(parser: Parser, args: argparse.Namespace) -> None:
    """Refuse options that would have no effect."""
    of_table = ("export", "time", "threads", "no_loss", "teacher", "corpus", "device")
    allowed = {"latency_table", *of_table} if args.targets else {"latency_table"} if args.at else set()
    for name in (*of_table, "latency_table"):
        if getattr(args, name) != parser.get_default(name) and name not in allowed:
            needed = "--targets" if name != "latency_table" else "--targets or --at"
            parser.error(f"--{name.replace('_', '-')} is of {needed}, which is not given")
    if args.targets and not args.export and (args.int8 or args.to != "folder"):
        parser.error("--to and --int8 are of models, and --targets writes none without --export")
    if args.time < 0:
        parser.error(f"--time must be at least 0, but is {args.time}")


def _look(args: argparse.Namespace) -> None:
    from s3prl_pruned.commands.run_structures import run
    from s3prl_pruned.report import structures

    data = run(
        Path(args.source),
        Path(args.path),
        args.targets,
        latency_table=args.latency_table,
        losses=not args.no_loss,
        teacher=args.teacher,
        corpus=args.corpus,
        device=args.device,
        repeats=args.time,
        threads=args.threads,
        export=args.export,
        fmt=args.to,
        int8=args.int8,
    )
    print(structures.table(data).text(), *data["notes"], sep="\n")
    print(f"written: {args.path}")
