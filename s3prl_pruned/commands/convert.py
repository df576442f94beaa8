"""Convert a checkpoint from one public format to another: `tools/convert_checkpoint.py`."""

from s3prl_pruned.formats import WRITES
from s3prl_pruned.parsers import Parser

TARGETS = [name for name, encoders in WRITES.items() if encoders]


def make_parser() -> Parser:
    """The parser."""
    parser = Parser(
        "convert",
        usage="SOURCE TARGET --to FORMAT",
        examples="""
python tools/convert_checkpoint.py hubert_base_ls960.pt hubert_base --to huggingface
python tools/convert_checkpoint.py lighthubert_small.pt my_model --to folder --subnet small
""",
    )
    add = parser.add_argument
    add(
        "source",
        metavar="SOURCE",
        help="checkpoint of s3prl, fairseq, Hugging Face, torchaudio, Microsoft, DPHuBERT, DiariZen, DistilHuBERT, "
        "LightHuBERT, MaskHuBERT or STaRHuBERT, or an exported folder",
    )
    add("target", metavar="TARGET", help="new file or folder; never overwritten")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--to", metavar="FORMAT", choices=TARGETS, help="format of TARGET: %(choices)s")
    how.add_argument(
        "--into",
        metavar="WHISPER",
        help="replace the encoder of this Whisper model (OpenAI's file or a Hugging Face folder) by SOURCE; pruned "
        "weights become zeros, so the file does not get smaller",
    )
    add("--shape", metavar="NAME", help="shape of a torchaudio state dict, such as hubert_base")
    add(
        "--subnet",
        metavar="NAME",
        help="subnet of a LightHuBERT supernet: small, base, whole, or widths such as 384/6/1536 (embedding, heads, "
        "feed-forward); default: the file's own",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Convert, and print what was written.

    Args:
        argv: command line; None is the process's own.
    """
    args = make_parser().parse_args(argv)

    from s3prl_pruned.config import UserError
    from s3prl_pruned.pretrain.conversion import convert, put_into_whisper

    if args.into:
        if args.shape or args.subnet:
            raise UserError("`--into` cannot be used with --shape or --subnet. Leave them out.")
        about = put_into_whisper(args.source, args.target, args.into)
    else:
        about = convert(args.source, args.target, args.to, shape=args.shape, subnet=args.subnet)
    print(f"{about}: written to {args.target}")
