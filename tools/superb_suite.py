"""The SUPERB tasks of one or several upstreams, planned, run past failures and restarts, and scored.

    python tools/superb_suite.py -u wavlm_pruned --tasks all --paths my_corpora.yaml
    python tools/superb_suite.py -u fbank pruned=wavlm_pruned_local:my_export --tasks asr,ks --lr-search
    python tools/superb_suite.py -u wavlm_pruned --tasks all --scheduler slurm --jobs-dir my_jobs
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from s3prl_pruned.command_line import command_line


def numbers(kind: type) -> object:
    return lambda text: tuple(kind(part) for part in text.split(","))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="superb_suite.py", description=__doc__.splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="What follows -- goes to every run_downstream.py as it stands.\n\nA second call goes on: finished tasks are kept, "
        "interrupted ones resumed, failed ones tried again.\nExit status: 0 all finished, 2 failures that you can mend, 1 others.",
    )  # fmt: skip
    add = parser.add_argument
    add("-u", "--upstreams", nargs="+", metavar="NAME[=UPSTREAM[:CKPT]]", default=[],
        help="row of the table, s3prl's -u (default: the name) and -k; {seed} in CKPT stands for the seed")
    add("-k", "--upstream_ckpt", metavar="PATH", help="checkpoint or export, where there is one upstream")
    add("--tasks", metavar="TASK,TASK", default="all", help="tasks (default: all ten)")
    add("--seeds", metavar="N,N", type=numbers(int), default=(1337,), help="seeds; several make a row each (default: 1337)")
    add("--lr-search", action="store_true", help="try the benchmark's learning rates, 1e-1 to 1e-7, and take the best on dev")
    add("--lr", metavar="LR,LR", type=numbers(float), help="learning rates of the search, other than the benchmark's")
    add("--protocol", choices=["quick", "mini"], help="other settings than the benchmark's, and called so in every result, of "
        "downstream_runs/PROTOCOL/: quick has a tenth of the steps; mini is for the corpora of tools/make_mini_superb.py")
    add("--quick", dest="protocol", action="store_const", const="quick", help="--protocol quick")
    add("--results", metavar="DIR", type=Path, default=Path("results"), help="folder of the rows (default: %(default)s)")
    add("--paths", metavar="YAML", help="file of `<task>: <corpus>` lines (default: paths.yaml, where there is one)")
    add("--cache-features", action="store_true", help="keep features on disk, for every task that sees the same waveforms twice")
    add("--device", metavar="DEV", help="cuda or cpu")
    add("-o", "--override", metavar="K=V,,K=V", default="", help="change settings of every task")
    add("--jobs", metavar="N", type=int, default=1, help="calls at a time (default: %(default)s)")
    add("--threads", metavar="N", type=int, default=1, help="CPU threads of each (default: %(default)s)")
    add("--dry-run", action="store_true", help="show the plan and end")
    add("--no-probe", action="store_true", help="do not estimate times by a few steps of each task")
    add("--scheduler", choices=["slurm", "shell"], help="write job scripts instead of running")
    add("--jobs-dir", metavar="DIR", type=Path, default=Path("superb_jobs"),
        help="new folder of the scripts (default: %(default)s)")
    add("--choose", metavar="DIR", type=Path, help=argparse.SUPPRESS)  # a planned job: the choice among tried rates
    return parser  # fmt: skip


def main() -> None:
    typed = sys.argv[1:]
    split = typed.index("--") if "--" in typed else len(typed)
    parser = make_parser()
    args = parser.parse_args(typed[:split])
    if not (args.upstreams or args.choose):
        parser.error("-u is missing, such as -u wavlm_pruned")
    if args.upstream_ckpt and len(args.upstreams) != 1:
        parser.error("-k goes with one upstream; with several give NAME=UPSTREAM:CKPT")
    if args.lr and not (args.lr_search or args.choose):
        parser.error("--lr is of --lr-search; one learning rate for all tasks is -o config.optimizer.lr=LR")
    if min(args.jobs, args.threads) < 1:
        parser.error("--jobs and --threads must be at least 1")

    from s3prl_pruned.measure import learning_rates

    rates = args.lr or learning_rates.LEARNING_RATES
    if args.choose:
        learning_rates.choose(args.choose, rates)
        return

    from s3prl_pruned.measure import suite_command
    from s3prl_pruned.measure.comparison import Candidate
    from s3prl_pruned.measure.suite import Suite, parse_tasks

    candidates = [Candidate.parse(text) for text in args.upstreams]
    if args.upstream_ckpt:
        candidates = [dataclasses.replace(candidates[0], checkpoint=args.upstream_ckpt)]
    suite = Suite(
        candidates=tuple(candidates),
        tasks=parse_tasks(args.tasks),
        seeds=args.seeds,
        results=args.results,
        learning_rates=rates if args.lr_search else (),
        protocol=args.protocol,
        override=args.override,
        paths=args.paths,
        cache_features=args.cache_features,
        options=(*(["--device", args.device] if args.device else []), *typed[split + 1 :]),
        threads=args.threads,
    )
    probe = not (args.no_probe or args.scheduler)  # not on the machine that submits jobs
    status = suite_command.main(
        suite, parallel=args.jobs, probe=probe, dry_run=args.dry_run, scheduler=args.scheduler, jobs_dir=args.jobs_dir
    )
    sys.exit(status)


if __name__ == "__main__":
    command_line(main)
