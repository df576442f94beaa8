"""How diagonal each attention head is, before and after pruning: a table and a figure.

python -m benchmarks.diagonality embedded result/pretrain/wavlm_pruned_distill/heads_embedded/export
python -m benchmarks.diagonality wavlm_base my_export --corpus /data/LibriSpeech/dev-clean --limit 100
"""

import argparse
from pathlib import Path

from s3prl_pruned.command_line import command_line


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.diagonality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "models",
        nargs="+",
        metavar="MODEL",
        help="a teacher's name, an export's folder or any checkpoint; the first is what the others were made from",
    )
    add("--corpus", metavar="PATH", help="speech, as run_pretrain.py's --corpus (default: the embedded dev split)")
    add("--limit", type=int, default=20, metavar="N", help="utterances, spread over the corpus (default: %(default)s)")
    add(
        "--output",
        type=Path,
        default=Path("result/diagonality"),
        metavar="DIR",
        help="new folder of the report (default: %(default)s)",
    )
    args = parser.parse_args()

    from benchmarks.diagonality import measure as diagonality
    from benchmarks.diagonality import report as diagonality_report

    diagonality_report.refuse_existing(args.output)
    data = diagonality.compare(args.models, corpus=args.corpus, limit=args.limit)
    print(diagonality_report.markdown(data), end="")
    print("written: " + ", ".join(map(str, diagonality_report.write(data, args.output))))


if __name__ == "__main__":
    command_line(main)
