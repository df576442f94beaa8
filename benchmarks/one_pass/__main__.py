"""Pruning during ASR fine-tuning compared with prune-then-fine-tune at equal total steps: WER, MAPSSWE, step time.

python -m benchmarks.one_pass --steps 600 --prune-steps 200
python -m benchmarks.one_pass --family wav2vec2 --one-pass self_pinching_asr --prune wav2vec2_base_s80 \
        --finetune finetune_asr --target 0.722 --steps 80000 --prune-steps 40000 -- --corpus /data/LibriSpeech
"""

import argparse
import json
from pathlib import Path

from s3prl_pruned.command_line import command_line


def make_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.one_pass", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--steps", type=int, metavar="N", required=True, help="total optimiser steps of either method")
    add(
        "--prune-steps",
        type=int,
        metavar="N",
        required=True,
        help="how many of them are for distillation with pruning",
    )
    add("--target", type=float, metavar="S", default=0.65, help="target sparsity of both (default: %(default)s)")
    add("--family", metavar="NAME", default="wavlm", help="family of the encoder (default: %(default)s)")
    add("--one-pass", metavar="RECIPE", default="self_pinching_asr_embedded", help="(default: %(default)s)")
    add("--prune", metavar="RECIPE", default="embedded", help="recipe of the distillation (default: %(default)s)")
    add(
        "--finetune",
        metavar="RECIPE",
        default="finetune_asr_embedded",
        help="recipe of the fine-tuning after it (default: %(default)s)",
    )
    add("--seed", type=int, default=1337, help="seed of all runs (default: %(default)s)")
    add(
        "--root",
        metavar="DIR",
        type=Path,
        default=Path("result/one_pass"),
        help="folder of the runs (default: %(default)s)",
    )
    add("--output", metavar="JSON", type=Path, help="write the comparison here")
    add("options", nargs="*", help="after --: options of run_pretrain.py for all runs, such as --corpus DIR")
    return parser


def main() -> None:
    """The command line."""
    args = make_parser().parse_args()

    from benchmarks.one_pass.comparison import Setting, compare, report
    from s3prl_pruned.checkpoint import write_text

    setting = Setting(
        family=args.family,
        one_pass=args.one_pass,
        prune=args.prune,
        finetune=args.finetune,
        steps=args.steps,
        prune_steps=args.prune_steps,
        target_sparsity=args.target,
        seed=args.seed,
        options=tuple(args.options),
    )
    found = compare(setting, args.root)
    print(report(found))
    if args.output:
        write_text(args.output, json.dumps(found.to_dict(), indent=1) + "\n")


if __name__ == "__main__":
    command_line(main)
