"""Prune by several recipes at several sparsities, and run tasks on the results: `tools/sweep.py`."""

import sys
from pathlib import Path

from s3prl_pruned.own_commands import as_typed, option_of
from s3prl_pruned.parsers import PlanParser

EXAMPLES = """
python tools/sweep.py --recipe magnitude_s80 rows_s50 --target 0.3,0.5 --corpus /data/LibriSpeech
python tools/sweep.py --recipe embedded=0.5,0.8 heads_embedded=0.1,0.2 --tasks asr --beside fbank
python tools/sweep.py --recipe magnitude_s80 --target 0.5,0.8 --scheduler slurm --jobs-dir my_jobs
python tools/tradeoff.py result/sweep result/sweep/results     # then: one table of all models
"""
NOTES = """
Options after -- are passed to every run_pretrain.py.
A second call keeps finished runs, resumes interrupted ones, and tries failed ones again.
Exit status: 0 all finished, 2 errors that you can fix, 1 other errors.
"""


def make_parser() -> PlanParser:
    """The parser."""
    parser = PlanParser(
        "sweep",
        usage="--recipe RECIPE ... [--target R,R] [--tasks TASK,TASK] [OPTION ...]",
        examples=EXAMPLES,
        notes=NOTES,
    )
    add = parser.add_argument
    add(
        "--recipe",
        nargs="+",
        required=True,
        metavar="RECIPE[=R,R]",
        help="recipes of run_pretrain.py, each with target sparsities of its own where wanted",
    )
    add("--target", metavar="R,R", default="", help="target sparsities for recipes without their own")
    add("--corpus", metavar="DIR", help="--corpus of every run_pretrain.py")
    add("--teacher", metavar="T", help="--teacher of every run_pretrain.py")
    add("--tasks", metavar="TASK,TASK", default="", help="SUPERB tasks to run on every model (default: none)")
    add(
        "--beside",
        nargs="+",
        metavar="NAME[=UPSTREAM[:CKPT]]",
        default=[],
        help="other upstreams to run the tasks on, such as fbank",
    )
    add(
        "--folder",
        metavar="DIR",
        type=Path,
        default=Path("result/sweep"),
        help="folder of runs and results (default: %(default)s)",
    )
    add("-o", "--override", metavar="K=V", default="", help="-o of every run_pretrain.py")
    add("--dry-run", action="store_true", help="list the jobs and exit")
    parser.add_parallel_options()
    add = parser.add_argument_group("pruning").add_argument
    add(
        "-u",
        "--upstream",
        default="wavlm_pruned_distill",
        metavar="NAME",
        help="-u of every run_pretrain.py (default: %(default)s)",
    )
    add(
        "--seeds",
        metavar="N,N",
        default="1337",
        help="seeds; each has its own pruning and tasks (default: %(default)s)",
    )
    add = parser.add_argument_group("tasks").add_argument
    add("--paths", metavar="YAML", help="file of `<task>: <corpus>` lines (default: paths.yaml, if it exists)")
    add("--protocol", metavar="NAME", help="--protocol of tools/superb_suite.py")
    add("--task-override", metavar="K=V", default="", help="-o of every run_downstream.py")
    add("--cache-features", action="store_true", help="--cache-features of tools/superb_suite.py")
    add = parser.add_argument_group("job scripts").add_argument
    add("--scheduler", choices=["slurm", "shell"], help="write one job script per run instead of running")
    add(
        "--jobs-dir",
        metavar="DIR",
        type=Path,
        default=Path("sweep_jobs"),
        help="new folder for the scripts (default: %(default)s)",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the sweep, or write its job scripts; exits with the status of its failures.

    Args:
        argv: command line; None is the process's own.
    """
    args, for_calls = make_parser().parse_calls(argv)

    from s3prl_pruned.config import UserError
    from s3prl_pruned.plan.carry_out import carry_out, say_failures
    from s3prl_pruned.plan.devices import find_devices
    from s3prl_pruned.plan.models import ComparedModel
    from s3prl_pruned.plan.suite import PROTOCOLS, parse_tasks
    from s3prl_pruned.plan.sweep import Sweep, parse_rates, parse_recipes

    if args.protocol not in (None, *PROTOCOLS):
        raise UserError(f"`--protocol` must be one of {list(PROTOCOLS)}, but is {args.protocol!r}.")
    if not args.seeds.replace(",", "").isdigit():
        raise UserError(f"`--seeds` must be whole numbers separated by commas, but is {args.seeds!r}.")
    options = [(name, getattr(args, name)) for name in ("corpus", "teacher")]
    sweep = Sweep(
        recipes=parse_recipes(args.recipe, parse_rates(args.target) if args.target else ()),
        upstream=args.upstream,
        seeds=tuple(int(seed) for seed in args.seeds.split(",") if seed),
        folder=args.folder,
        override=args.override,
        options=(*(part for name, value in options if value for part in (f"--{name}", value)), *for_calls),
        tasks=parse_tasks(args.tasks) if args.tasks else (),
        beside=tuple(ComparedModel.parse(text) for text in args.beside),
        protocol=args.protocol,
        task_override=args.task_override,
        paths=args.paths,
        cache_features=args.cache_features,
        threads=args.threads,
    )
    jobs = sweep.jobs()
    report = carry_out(
        jobs,
        name="sweep",
        parallel=args.jobs,
        devices=find_devices(args.devices, jobs_each=args.jobs_per_device, device=option_of(for_calls, "--device")),
        dry_run=args.dry_run,
        scheduler=args.scheduler,
        jobs_dir=args.jobs_dir,
    )
    if report is None:
        return
    print(as_typed(f"report: python tools/tradeoff.py {sweep.folder}") + f" {sweep.results}" * bool(sweep.tasks))
    say_failures(report, len(jobs))
    sys.exit(report.exit_code)
