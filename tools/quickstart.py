"""The three commands on the embedded default, and one screen of what came of them; what `make run` calls.

    python tools/quickstart.py
"""

import argparse
import sys

from s3prl_pruned.command_line import command_line


def main() -> None:
    argparse.ArgumentParser(
        prog="quickstart.py",
        description="Distil and prune the embedded teacher, recognise speech with FBANK, the teacher and the pruned model, "
        "score them, and end with one screen (also result/quickstart.md and .json). A second call reuses what stands. "
        "Takes no options.",
    ).parse_args()

    from s3prl_pruned.measure.quickstart import main as quickstart

    sys.exit(quickstart())


if __name__ == "__main__":
    command_line(main)
