"""Run SUPERB tasks for one or more upstreams, and score them: `tools/superb_suite.py`."""

import argparse
import dataclasses
import sys
from pathlib import Path

from s3prl_pruned.own_commands import option_of
from s3prl_pruned.parsers import PlanParser

EXAMPLES = """
python tools/superb_suite.py -u wavlm_pruned --tasks all --paths my_corpora.yaml
python tools/superb_suite.py -u fbank mine=wavlm_pruned_local:my_export --tasks asr,ks --lr-search
python tools/superb_suite.py -u wavlm_pruned --scheduler slurm --jobs-dir my_jobs
"""
NOTES = """
Options after -- are passed to every run_downstream.py.
A second call keeps finished tasks, resumes interrupted ones, and tries failed ones again.
Exit status: 0 all finished, 2 errors that you can fix, 1 other errors.
"""


def make_parser() -> PlanParser:
    """The parser."""
    parser = PlanParser(
        "suite", usage="-u NAME ... [--tasks TASK,TASK] [--lr-search] [OPTION ...]", examples=EXAMPLES, notes=NOTES
    )
    add = parser.add_argument
    add(
        "-u",
        "--upstreams",
        nargs="+",
        metavar="NAME[=UPSTREAM[:CKPT]]",
        default=[],
        help="row names, each with s3prl's -u (default: the name) and -k; {seed} in CKPT is replaced by the seed",
    )
    add("-k", "--upstream_ckpt", metavar="PATH", help="checkpoint or export of a single upstream")
    add("--tasks", metavar="TASK,TASK", default="all", help="tasks (default: all ten)")
    add("--paths", metavar="YAML", help="file of `<task>: <corpus>` lines (default: paths.yaml, if it exists)")
    add("--lr-search", action="store_true", help="choose each task's learning rate on dev from five short trainings")
    add(
        "--seeds",
        metavar="N,N",
        type=_whole_numbers,
        default=(1337,),
        help="seeds, with one row each (default: 1337)",
    )
    add("--results", metavar="DIR", type=Path, default=Path("results"), help="folder of results (default: %(default)s)")
    add("-o", "--override", metavar="K=V,,K=V", default="", help="change settings of all tasks")
    add("--device", metavar="DEV", help="cuda or cpu (default: cuda if available)")
    add("--dry-run", action="store_true", help="print the plan and exit")
    parser.add_parallel_options()
    add = parser.add_argument_group("learning rates").add_argument
    add(
        "--lr",
        nargs="+",
        metavar="[TASK=]LR,LR",
        type=_rates,
        help="learning rates to search, for all tasks or one (default: five around the task's own)",
    )
    add("--lr-share", metavar="X", type=float, help="length of a short training / a full training (default: 0.1)")
    add = parser.add_argument_group("protocol").add_argument
    add(
        "--protocol",
        choices=["quick", "mini"],
        help="use settings other than SUPERB's, from downstream_runs/PROTOCOL/, and label all results with it; quick: "
        "a tenth of the steps; mini: for the corpora of benchmarks/mini_superb",
    )
    add("--quick", dest="protocol", action="store_const", const="quick", help="same as --protocol quick")
    add(
        "--submission",
        metavar="ZIP",
        type=Path,
        help="write the submission to SUPERB's leaderboard from the finished official tasks of -u, and exit",
    )
    add = parser.add_argument_group("job scripts").add_argument
    add("--scheduler", choices=["slurm", "shell"], help="write job scripts instead of running")
    add(
        "--jobs-dir",
        metavar="DIR",
        type=Path,
        default=Path("superb_jobs"),
        help="new folder for the scripts (default: %(default)s)",
    )
    add = parser.add_argument_group("other").add_argument
    add("--cache-features", action="store_true", help="cache features on disk for tasks that read audio repeatedly")
    add("--no-probe", action="store_true", help="skip the few steps of each task that estimate its time")
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
        parser.error("-k needs exactly one upstream; for several write NAME=UPSTREAM:CKPT")
    if (args.lr or args.lr_share is not None) and not (args.lr_search or args.choose):
        parser.error("--lr and --lr-share need --lr-search; to set one learning rate, use -o config.optimizer.lr=LR")
    rates = dict(args.lr or [])
    if args.choose:
        from s3prl_pruned.plan.learning_rates import train_with_chosen

        train_with_chosen(args.choose, rates[""], args.lr_steps, for_calls)
        return

    if args.submission:
        if len(args.upstreams) != 1:
            parser.error("--submission needs exactly one upstream; name it with -u")
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
