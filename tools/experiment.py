"""Run an experiment of the paper in miniature: prune, run tasks, make its table.

    python tools/make_mini_superb.py --output data/mini_superb
    python tools/experiment.py table1 --paths data/mini_superb/paths.yaml --jobs 2
    python tools/experiment.py table1 --table            # what is finished so far

Writes downstream_runs/NAME.json and NAME.png. The same call goes on after an interruption.
"""

import argparse
import sys
from pathlib import Path

from s3prl_pruned.command_line import command_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("experiment", help="a name of downstream_runs/experiments/, or a YAML file")
    add("--paths", metavar="YAML", help="where the corpora lie (default: paths.yaml)")
    add("--output", metavar="DIR", type=Path, default=Path("result/experiments"), help="folder of runs and results; rows of one name are the same runs in all experiments that share it (default: %(default)s)")
    add("--jobs", metavar="N", type=int, default=1, help="calls at a time (default: %(default)s)")
    add("--dry-run", action="store_true", help="list the calls and end")
    add("--scheduler", choices=["slurm", "shell"], help="write job scripts instead of running")
    add("--jobs-dir", metavar="DIR", type=Path, default=Path("experiment_jobs"), help="new folder of the scripts (default: %(default)s)")
    add("--time", metavar="N", type=int, default=0, help="time all exports beside the dense encoder, N runs of each, when the table is made")
    add("--table", action="store_true", help="run nothing: make the table of what is finished")
    add("--json", metavar="FILE", type=Path, help="where the table's data go, and beside them the figure (default: downstream_runs/NAME.json)")
    args = parser.parse_args()
    if args.time < 0 or args.jobs < 1:
        parser.error("--time must be at least 0, and --jobs at least 1")

    from s3prl_pruned.measure import experiment_table
    from s3prl_pruned.measure.carry_out import carry_out, say_failures
    from s3prl_pruned.measure.experiment_figure import draw_scores
    from s3prl_pruned.measure.experiment import Planned, load_experiment
    from s3prl_pruned.superb.experiment import SETTINGS
    from s3prl_pruned.superb.results import write_json

    name = Path(args.experiment).stem
    planned = Planned(experiment=load_experiment(args.experiment), folder=args.output, paths=args.paths)
    report = None
    if not args.table:
        jobs = planned.jobs()
        report = carry_out(jobs, name=name, parallel=args.jobs, dry_run=args.dry_run, scheduler=args.scheduler, jobs_dir=args.jobs_dir)
        if report is None:
            return
        say_failures(report, len(jobs))
    data = experiment_table.collect(planned)
    if args.time:
        experiment_table.add_speeds(planned, data, repeats=args.time)
    path = args.json or SETTINGS / f"{name}.json"
    write_json(path, data)
    written = [path, draw_scores(data, path.with_suffix(".png"))]
    print(f"{data['title']}\n\n{experiment_table.as_markdown(data)}\n\nwritten:", *filter(None, written))
    if report:
        sys.exit(report.exit_code)


if __name__ == "__main__":
    command_line(main)
