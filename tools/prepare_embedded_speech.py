"""Build the embedded speech corpus from Debian packages.

    pip install av                      # decodes G.722; needed here only
    python tools/prepare_embedded_speech.py

Fetches the voice prompts of Asterisk in English, French and Russian (with ``apt-get download``,
nothing is installed and root is not needed), and writes them to ``s3prl_pruned/embedded/speech`` as
Ogg/Opus in LibriSpeech's folder layout. Takes about two minutes. From the same packages come the
same lists and, with the same libsndfile and libopus, the same samples; the bytes of the files still
differ from run to run, since every Ogg stream is given a random number.
"""

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.data.asterisk import build_embedded_speech

DEFAULT = Path(__file__).resolve().parents[1] / "s3prl_pruned" / "embedded" / "speech"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--target", type=Path, default=DEFAULT, help=f"folder of the corpus (default: {DEFAULT})"
    )
    parser.add_argument(
        "--packages",
        type=Path,
        help="folder that keeps the downloaded packages, about 40 MB (default: a temporary one)",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            packages = (options.packages or Path(scratch)).resolve()
            summary = build_embedded_speech(options.target, packages=packages)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in options.target.rglob("*") if path.is_file())
    print(json.dumps(summary["splits"], indent=2))
    print(f"{options.target}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
