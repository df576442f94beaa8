"""Convert a dense checkpoint from any public format to any other: `tools/convert_checkpoint.py`."""

from s3prl_pruned.formats import WRITES
from s3prl_pruned.own_commands import Parser

TARGETS = [name for name, encoders in WRITES.items() if encoders]


def make_parser() -> Parser:
    """The parser."""
    parser = Parser("convert", description="Convert a checkpoint between formats.")
    parser.add_argument(
        "source",
        help="a checkpoint of any known format (s3prl, fairseq, Hugging Face, torchaudio, Microsoft, DPHuBERT, "
        "DiariZen, DistilHuBERT, LightHuBERT, MaskHuBERT, STaRHuBERT), or an exported folder",
    )
    parser.add_argument("target", help="the file or folder to write; must not exist")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--to", choices=TARGETS, help="the target's format")
    how.add_argument(
        "--into",
        metavar="WHISPER",
        help="write a copy of this whole Whisper (OpenAI's file, or a Hugging Face folder) with the source as its "
        "encoder, pruned or not: as large as before, zeros in place of what is gone",
    )
    parser.add_argument(
        "--shape", metavar="NAME", help="of a torchaudio state dict, which does not say it: hubert_base, ..."
    )
    parser.add_argument(
        "--subnet",
        metavar="NAME",
        help="of a LightHuBERT supernet, which model to take out: small, base, whole, or widths such as 384/6/1536 "
        "(embedding, heads, feed-forward); default: the one that the file means",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Convert, and say what was written.

    Args:
        argv: command line; None is the process's own.
    """
    args = make_parser().parse_args(argv)

    from s3prl_pruned.config import UserError
    from s3prl_pruned.pretrain.conversion import convert, put_into_whisper

    if args.into:
        if args.shape or args.subnet:
            raise UserError("`--into` takes a Whisper encoder, which says its shape. Leave --shape and --subnet out.")
        about = put_into_whisper(args.source, args.target, args.into)
    else:
        about = convert(args.source, args.target, args.to, shape=args.shape, subnet=args.subnet)
    print(f"{about}: written to {args.target}")
