"""Build the embedded speech corpus from Debian packages.

    pip install av                      # decodes G.722; only needed here
    python -m benchmarks.speech.embedded

Fetches the voice prompts of Asterisk in English, French and Russian (with ``apt-get download``,
nothing is installed and root is not needed), and writes them to ``s3prl_pruned/embedded/speech`` as
Ogg/Opus in LibriSpeech's folder layout. Takes about two minutes. The same packages give the same
lists and, with the same libsndfile and libopus, the same samples; the bytes of the files still
differ from run to run, since every Ogg stream gets a random number.
"""

import argparse
import json
import logging
import tempfile
from pathlib import Path

from s3prl_pruned.command_line import command_line

DEFAULT = Path(__file__).resolve().parents[2] / "s3prl_pruned" / "embedded" / "speech"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speech.embedded",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--target", metavar="DIR", type=Path, default=DEFAULT, help="folder of the corpus (default: the package's)")
    add(
        "--packages",
        metavar="DIR",
        type=Path,
        help="folder that keeps the downloaded packages, about 40 MB (default: a temporary one)",
    )
    args = parser.parse_args()

    from benchmarks.speech.asterisk import build_embedded_speech

    logging.getLogger("s3prl_pruned").setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as scratch:
        summary = build_embedded_speech(args.target, packages=(args.packages or Path(scratch)).resolve())
    size = sum(path.stat().st_size for path in args.target.rglob("*") if path.is_file())
    print(json.dumps(summary["splits"], indent=2))
    print(f"{args.target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    command_line(main)
