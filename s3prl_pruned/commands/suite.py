"""SUPERB tasks of one or several upstreams, planned, run and scored: `tools/superb_suite.py`."""

import argparse
import dataclasses
import sys
from pathlib import Path

from s3prl_pruned.own_commands import PlanParser, option_of

EPILOG = """\
What follows -- goes to every run_downstream.py as it stands.

A second call goes on: finished tasks are kept, interrupted ones resumed, failed ones tried again.
Exit status: 0 all finished, 2 failures that you can mend, 1 others."""


def make_parser() -> PlanParser:
    """The parser."""
    parser = PlanParser(
        "suite",
        description="SUPERB tasks of one or several upstreams, planned, run past failures and restarts, and scored.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    add = parser.add_argument
    add(
        "-u",
        "--upstreams",
        nargs="+",
        metavar="NAME[=UPSTREAM[:CKPT]]",
        default=[],
        help="row of the table, s3prl's -u (default: the name) and -k; {seed} in CKPT stands for the seed",
    )
    add("-k", "--upstream_ckpt", metavar="PATH", help="checkpoint or export, where there is one upstream")
    add("--tasks", metavar="TASK,TASK", default="all", help="tasks (default: all ten)")
    add(
        "--seeds",
        metavar="N,N",
        type=_whole_numbers,
        default=(1337,),
        help="seeds; several make a row each (default: 1337)",
    )
    add(
        "--lr-search",
        action="store_true",
        help="try five learning rates around each task's own for a tenth of its steps, then train with the best on dev",
    )
    add(
        "--lr",
        nargs="+",
        metavar="[TASK=]LR,LR",
        type=_rates,
        help="learning rates of the search, of all tasks or of one",
    )
    add("--lr-share", metavar="X", type=float, help="share of a task's steps that a rate is tried for (default: 0.1)")
    add(
        "--protocol",
        choices=["quick", "mini"],
        help="other settings than the benchmark's, and called so in every result, of "
        "downstream_runs/PROTOCOL/: quick has a tenth of the steps; mini is for the corpora of benchmarks/mini_superb",
    )
    add("--quick", dest="protocol", action="store_const", const="quick", help="--protocol quick")
    add(
        "--results", metavar="DIR", type=Path, default=Path("results"), help="folder of the rows (default: %(default)s)"
    )
    add("--paths", metavar="YAML", help="file of `<task>: <corpus>` lines (default: paths.yaml, where there is one)")
    add(
        "--cache-features",
        action="store_true",
        help="keep features on disk, for every task that sees the same waveforms twice",
    )
    add("--device", metavar="DEV", help="cuda or cpu")
    add("-o", "--override", metavar="K=V,,K=V", default="", help="change settings of every task")
    parser.add_parallel_options()
    add("--dry-run", action="store_true", help="show the plan and end")
    add("--no-probe", action="store_true", help="do not estimate times by a few steps of each task")
    add("--scheduler", choices=["slurm", "shell"], help="write job scripts instead of running")
    add(
        "--jobs-dir",
        metavar="DIR",
        type=Path,
        default=Path("superb_jobs"),
        help="new folder of the scripts (default: %(default)s)",
    )
    add(
        "--submission",
        metavar="ZIP",
        type=Path,
        help="write what SUPERB's leaderboard takes of the finished official tasks of -u, and end",
    )
    # A planned job: the choice among tried rates, and the run with the chosen one.
    add("--choose", metavar="DIR", type=Path, help=argparse.SUPPRESS)
    add("--lr-steps", metavar="N", type=int, help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the suite, or write its job scripts; exits with the status of its failures.

    Args:
        argv: command line; None is the process's own.
    """
    parser = make_parser()
    args, for_calls = parser.parse_calls(argv)
    if not (args.upstreams or args.choose):
        parser.error("-u is missing, such as -u wavlm_pruned")
    if args.upstream_ckpt and len(args.upstreams) != 1:
        parser.error("-k goes with one upstream; with several give NAME=UPSTREAM:CKPT")
    if (args.lr or args.lr_share is not None) and not (args.lr_search or args.choose):
        parser.error("--lr is of --lr-search; one learning rate for all tasks is -o config.optimizer.lr=LR")
    rates = dict(args.lr or [])
    if args.choose:
        from s3prl_pruned.plan.learning_rates import train_with_chosen

        train_with_chosen(args.choose, rates[""], args.lr_steps, for_calls)
        return

    if args.submission:
        if len(args.upstreams) != 1:
            parser.error("--submission is of one upstream; name one by -u")
        from s3prl_pruned.report.submission import write_submission

        print(write_submission(args.results / args.upstreams[0].partition("=")[0], args.submission).text())
        return

    from s3prl_pruned.commands.run_suite import run_suite
    from s3prl_pruned.plan.devices import find_devices
    from s3prl_pruned.plan.learning_rates import SHARE, check_searched, check_share
    from s3prl_pruned.plan.models import ComparedModel
    from s3prl_pruned.plan.suite import Suite, parse_tasks

    models = [ComparedModel.parse(text) for text in args.upstreams]
    if args.upstream_ckpt:
        models = [dataclasses.replace(models[0], checkpoint=args.upstream_ckpt)]
    suite = Suite(
        models=tuple(models),
        tasks=parse_tasks(args.tasks),
        seeds=args.seeds,
        results=args.results,
        learning_rates=rates.pop("", ()),
        rates_of_tasks=check_searched(rates),
        own_grids=args.lr_search,
        search_share=check_share(SHARE if args.lr_share is None else args.lr_share),
        protocol=args.protocol,
        override=args.override,
        paths=args.paths,
        cache_features=args.cache_features,
        options=(*(["--device", args.device] if args.device else []), *for_calls),
        threads=args.threads,
    )
    probe = not (args.no_probe or args.scheduler)  # not on the machine that submits jobs
    status = run_suite(
        suite,
        parallel=args.jobs,
        devices=find_devices(args.devices, jobs_each=args.jobs_per_device, device=option_of(suite.options, "--device")),
        probe=probe,
        dry_run=args.dry_run,
        scheduler=args.scheduler,
        jobs_dir=args.jobs_dir,
    )
    sys.exit(status)


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _rates(text: str) -> tuple[str, tuple[float, ...]]:
    """A task, empty for all, and its rates."""
    task, _, rates = text.rpartition("=")
    return task, tuple(float(part) for part in rates.split(","))
