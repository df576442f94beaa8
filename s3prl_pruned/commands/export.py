"""Export a model, as a folder, for transformers, or as ONNX: `tools/export.py`."""

from s3prl_pruned.formats import WRITES
from s3prl_pruned.own_commands import Parser

TARGETS = [name for name, encoders in WRITES.items() if encoders == "pruned"]


def make_parser() -> Parser:
    """The parser."""
    parser = Parser("export", description="Export a model; it is checked against its source.")
    parser.add_argument(
        "source",
        help="a states-*.ckpt of run_pretrain.py (its masks are cut), an exported folder, or any other checkpoint that "
        "is read",
    )
    parser.add_argument("target", help="what to write; must not exist")
    parser.add_argument(
        "--to",
        default="folder",
        choices=TARGETS,
        help="format (default: %(default)s, this project's)",
    )
    parser.add_argument(
        "--int8", action="store_true", help="8-bit weights and products, for inference on a CPU (folder only)"
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Export, and say what was written.

    Args:
        argv: command line; None is the process's own.
    """
    args = make_parser().parse_args(argv)

    from s3prl_pruned.pretrain.conversion import convert
    from s3prl_pruned.pretrain.finish import describe_export

    about = convert(args.source, args.target, args.to, int8=args.int8)
    ours = args.to in ("folder", "huggingface")
    print(f"{about}: exported to {describe_export(args.target) if ours else args.target}")
