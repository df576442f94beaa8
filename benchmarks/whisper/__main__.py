"""Prune Whisper's encoder by several methods to several sizes, and decode with Whisper's own decoder.

    python -m benchmarks.whisper.corpus data/whisper
    python -m benchmarks.whisper tiny.en.pt --corpus data/whisper --jobs 2
    python -m benchmarks.whisper tiny.en.pt --corpus data/whisper --table       # the results so far

Needs openai-whisper (see `python -m benchmarks.whisper.decode -h`). Writes downstream_runs/whisper_zero_shot.json and
.png. After an interruption, the same call resumes.
"""

import argparse
import sys
from pathlib import Path

from s3prl_pruned.command_line import command_line


def make_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoint", type=Path, help="OpenAI's file: teacher and decoder")
    add("--corpus", type=Path, required=True, help="folder that benchmarks.whisper.corpus made")
    add(
        "--settings",
        type=Path,
        metavar="YAML",
        help="methods, targets, steps (default: benchmarks/whisper/zero_shot.yaml)",
    )
    add(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("result/whisper_zero_shot"),
        help="folder of runs and results (default: %(default)s)",
    )
    add("--jobs", metavar="N", type=int, default=1, help="calls at a time (default: %(default)s)")
    add("--dry-run", action="store_true", help="list the calls and end")
    add("--table", action="store_true", help="run nothing: make the table of the finished results")
    add(
        "--json",
        metavar="FILE",
        type=Path,
        default=Path("downstream_runs/whisper_zero_shot.json"),
        help="where the table's data go, and beside them the figure (default: %(default)s)",
    )
    return parser


def main() -> None:
    """The command line."""
    args = make_parser().parse_args()

    from benchmarks.whisper.zero_shot import SETTINGS, PlannedZeroShot, as_markdown, collect, draw, load_settings
    from s3prl_pruned.plan.carry_out import carry_out, say_failures
    from s3prl_pruned.plan.devices import find_devices
    from s3prl_pruned.superb.results.result import write_json

    planned = PlannedZeroShot(
        settings=load_settings(args.settings or SETTINGS),
        checkpoint=args.checkpoint,
        corpus=args.corpus,
        folder=args.output,
    )
    report = None
    if not args.table:
        jobs = planned.jobs()
        report = carry_out(
            jobs,
            name="whisper",
            parallel=args.jobs,
            devices=find_devices(),
            dry_run=args.dry_run,
            scheduler=None,
            jobs_dir=args.output,
        )
        if report is None:
            return
        say_failures(report, len(jobs))
    data = collect(planned)
    write_json(args.json, data)
    written = [args.json, draw(data, args.json.with_suffix(".png"))]
    print(f"{data['title']}\n\n{as_markdown(data)}\n\nwritten:", *written)
    if report:
        sys.exit(report.exit_code)


if __name__ == "__main__":
    command_line(main)
