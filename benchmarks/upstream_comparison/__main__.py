"""Compare upstreams on the embedded ASR: learning-rate grid, seeds, bootstrap intervals.

python -m benchmarks.upstream_comparison fbank random=wavlm_random teacher=wavlm_embedded \
        "pruned=wavlm_pruned_local:result/pretrain/wavlm_pruned_distill/seed{seed}/export" \
        --steps 1500 --output downstream_runs/teacher_asr.json
"""

import argparse
import json
from pathlib import Path

from s3prl_pruned.command_line import command_line
from s3prl_pruned.config import UserError


def rates(text: str) -> list[float]:
    """`5e-4,1e-3`."""
    return [float(rate) for rate in text.split(",")]


def seeds(text: str) -> list[int]:
    """`1,2,3`."""
    return [int(seed) for seed in text.split(",")]


def make_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.upstream_comparison", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("models", nargs="+", metavar="NAME[=UPSTREAM[:CKPT]]", help="a name, s3prl's -u (default: the name), and -k")
    add(
        "--lr",
        metavar="LR,LR",
        type=rates,
        default="5e-4,1e-3,2e-3",
        help="learning rates, all tried with the first seed (default: %(default)s)",
    )
    add(
        "--seeds",
        metavar="N,N",
        type=seeds,
        default="1,2,3",
        help="seeds of the task; the others go with the chosen rate (default: %(default)s)",
    )
    add("--steps", type=int, metavar="N", default=1000, help="steps of each run (default: %(default)s)")
    add("--baseline", metavar="NAME", default=None, help="whose CER the others are compared with (default: the first)")
    add(
        "--root",
        metavar="DIR",
        type=Path,
        default=Path("result/comparison"),
        help="folder of the runs (default: %(default)s)",
    )
    add("--jobs", metavar="N", type=int, default=2, help="runs at a time, one thread each (default: %(default)s)")
    add("--output", metavar="JSON", type=Path, help="write the summary here, JSON")
    return parser


def main() -> None:
    """The command line."""
    args = make_parser().parse_args()

    from benchmarks.upstream_comparison import comparison
    from benchmarks.upstream_comparison.costs import costs
    from s3prl_pruned.plan.models import ComparedModel

    models = [ComparedModel.parse(text) for text in args.models]
    print(f"runs of {args.steps} steps into {args.root}; finished ones are kept", flush=True)
    baseline = args.baseline or models[0].name
    if baseline not in [model.name for model in models]:
        raise UserError(f"--baseline {baseline}: must be one of {[model.name for model in models]}.")
    summary = comparison.compare(
        models, args.lr, args.seeds, args.root, steps=args.steps, parallel=args.jobs, baseline=baseline
    )
    summary["costs"] = costs(models, args.seeds, repeats=31)
    print(comparison.table(summary))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    command_line(main)
