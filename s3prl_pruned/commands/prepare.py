"""Write the manifest of a corpus: `tools/prepare_data.py`. `run_pretrain.py --corpus` then starts without a scan."""

from s3prl_pruned.parsers import Parser


def make_parser() -> Parser:
    """The parser."""
    parser = Parser(
        "prepare",
        usage="SOURCE OUTPUT [--sets NAME ...]",
        examples="""
python tools/prepare_data.py /data/LibriSpeech librispeech.jsonl --sets train-clean-100
python tools/prepare_data.py cuts.jsonl.gz train.jsonl.gz
""",
    )
    add = parser.add_argument
    add(
        "source",
        metavar="SOURCE",
        help="folder of audio files, s3prl's len_for_bucket CSV or a folder of them, lhotse's .jsonl or Shar folder",
    )
    add("output", metavar="OUTPUT", help="manifest to write: *.jsonl or *.jsonl.gz")
    add("--sets", nargs="+", metavar="NAME", help="subfolders or CSVs to include (default: all)")
    add("--audio-root", metavar="DIR", help="folder that relative paths in CSVs and lhotse manifests start from")
    add("--jobs", type=int, metavar="N", default=16, help="number of reading threads (default: %(default)s)")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Write the manifest.

    Args:
        argv: command line; None is the process's own.
    """
    args = make_parser().parse_args(argv)

    from s3prl_pruned.data.prepare import prepare

    number, hours = prepare(args.source, args.output, splits=args.sets, audio_root=args.audio_root, jobs=args.jobs)
    print(f"{args.output}: {number} utterances, {hours:.2f} h")
