"""Export a model as a folder, for transformers, or as ONNX: `tools/export.py`."""

from s3prl_pruned.formats import WRITES
from s3prl_pruned.parsers import Parser

TARGETS = [name for name, encoders in WRITES.items() if encoders == "pruned"]


def make_parser() -> Parser:
    """The parser."""
    parser = Parser(
        "export",
        usage="SOURCE TARGET [--to FORMAT] [--int8]",
        examples="""
python tools/export.py result/pretrain/wavlm_pruned_distill/embedded/states-300.ckpt my_export
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
    add("target", metavar="TARGET", help="new file or folder; never overwritten")
    add(
        "--to",
        metavar="FORMAT",
        default="folder",
        choices=TARGETS,
        help="format of TARGET: %(choices)s (default: %(default)s, this project's own)",
    )
    add("--int8", action="store_true", help="int8 weights and matrix products for CPU inference (--to folder only)")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Export, and print what was written.

    Args:
        argv: command line; None is the process's own.
    """
    args = make_parser().parse_args(argv)

    from s3prl_pruned.pretrain.conversion import convert
    from s3prl_pruned.pretrain.finish import describe_export

    about = convert(args.source, args.target, args.to, int8=args.int8)
    ours = args.to in ("folder", "huggingface")
    print(f"{about}: exported to {describe_export(args.target) if ours else args.target}")
