"""Make the manifest of a corpus once; `run_pretrain.py --corpus` then starts from it without a scan.

python tools/prepare_data.py /data/LibriSpeech librispeech.jsonl --sets train-clean-100 train-clean-360 train-other-500
python tools/prepare_data.py cuts.jsonl.gz train.jsonl.gz
"""

import argparse

from s3prl_pruned.own_commands import Parser


def make_parser() -> Parser:
    """The parser."""
    parser = Parser("prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source", help="folder of audio, s3prl's len_for_bucket CSV or their folder, lhotse .jsonl or Shar folder"
    )
    parser.add_argument("output", help="the manifest to write: *.jsonl or *.jsonl.gz")
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="sub-folders or CSVs to take (default: all)")
    parser.add_argument(
        "--audio-root", metavar="DIR", help="what relative paths of CSVs and lhotse manifests start from"
    )
    parser.add_argument("--jobs", type=int, default=16, help="threads that look at the files (default: 16)")
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
