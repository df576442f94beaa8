"""Run an experiment of the paper in miniature: prune, run tasks, make its table.

    python -m benchmarks.mini_superb --output data/mini_superb
    python -m benchmarks.experiments table1 --paths data/mini_superb/paths.yaml --jobs 2
    python -m benchmarks.experiments table1 --table            # the results so far

Writes downstream_runs/NAME.json and NAME.png. After an interruption, the same call resumes.
"""

import argparse
import sys
from pathlib import Path

from s3prl_pruned.command_line import command_line


def make_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("experiment", help="a name of downstream_runs/experiments/, or a YAML file")
    add("--paths", metavar="YAML", help="file with the corpora's folders (default: paths.yaml)")
    add(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("result/experiments"),
        help="folder of runs and results; rows of one name are the same runs in all experiments that share it "
        "(default: %(default)s)",
    )
    add("--jobs", metavar="N", type=int, default=1, help="calls at a time (default: %(default)s)")
    add("--dry-run", action="store_true", help="list the calls and end")
    add("--scheduler", choices=["slurm", "shell"], help="write job scripts instead of running")
    add(
        "--jobs-dir",
        metavar="DIR",
        type=Path,
        default=Path("experiment_jobs"),
        help="new folder of the scripts (default: %(default)s)",
    )
    add(
        "--time",
        metavar="N",
        type=int,
        default=0,
        help="time all exports beside the dense encoder, N runs of each, when the table is made",
    )
    add("--table", action="store_true", help="run nothing: make the table of the finished results")
    add(
        "--json",
        metavar="FILE",
        type=Path,
        help="where the table's data go, and beside them the figure (default: downstream_runs/NAME.json)",
    )
    return parser


def main() -> None:
    """The command line."""
    parser = make_parser()
    args = parser.parse_args()
    if args.time < 0 or args.jobs < 1:
        parser.error("--time must be at least 0, and --jobs at least 1")

    from benchmarks.experiments.collect import add_speeds, collect
    from benchmarks.experiments.experiment import Planned, load_experiment
    from benchmarks.experiments.figure import draw_scores
    from benchmarks.experiments.table import as_markdown
    from s3prl_pruned.plan.carry_out import carry_out, say_failures
    from s3prl_pruned.plan.devices import find_devices
    from s3prl_pruned.superb.results.result import write_json
    from s3prl_pruned.superb.running.make_run import SETTINGS

    name = Path(args.experiment).stem
    planned = Planned(experiment=load_experiment(args.experiment), folder=args.output, paths=args.paths)
    report = None
    if not args.table:
        jobs = planned.jobs()
        report = carry_out(
            jobs,
            name=name,
            parallel=args.jobs,
            devices=find_devices(),
            dry_run=args.dry_run,
            scheduler=args.scheduler,
            jobs_dir=args.jobs_dir,
        )
        if report is None:
            return
        say_failures(report, len(jobs))
    data = collect(planned)
    if args.time:
        add_speeds(planned, data, repeats=args.time)
    path = args.json or SETTINGS / f"{name}.json"
    write_json(path, data)
    written = [path, draw_scores(data, path.with_suffix(".png"))]
    print(f"{data['title']}\n\n{as_markdown(data)}\n\nwritten:", *filter(None, written))
    if report:
        sys.exit(report.exit_code)


if __name__ == "__main__":
    command_line(main)
