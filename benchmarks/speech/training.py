"""Collect the real speech that the embedded teacher is trained on.

    pip install av                      # decodes G.722; only needed here
    python -m benchmarks.speech.training data/teacher

Fetches Debian packages (with ``apt-get download``; nothing is installed and root is not needed),
selects speech whose licence allows sharing weights trained on it, and writes it as 16 kHz FLAC
with a manifest. About 0.8 GB to download and 2 GB on disk.
"""

import argparse
import logging
from pathlib import Path

from s3prl_pruned.command_line import command_line


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speech.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where packages, speech and manifest go")
    args = parser.parse_args()

    from benchmarks.speech.debian_speech import fetch_training_speech, hours_by_source

    logging.getLogger("s3prl_pruned").setLevel(logging.INFO)
    manifest = fetch_training_speech(args.folder.resolve())
    hours = hours_by_source(manifest)
    for source, count in hours.items():
        print(f"{count:6.2f} h  {source}")
    print(f"{sum(hours.values()):6.2f} h  in {manifest}")


if __name__ == "__main__":
    command_line(main)
