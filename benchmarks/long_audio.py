"""The effect of cutting long audio into chunks: states compared with those of the whole audio, and time.

    OMP_NUM_THREADS=1 python -m benchmarks.long_audio embedded --minutes 5
    python -m benchmarks.long_audio wavlm_base_plus --minutes 20 --device cuda

The audio is concatenated prompts of the embedded speech. Errors are relative to a state's norm, for the first, the
middle and the last state.
"""

import argparse
import time

import torch

from s3prl_pruned.command_line import command_line
from s3prl_pruned.tables import Column, Table

SECONDS = [(5.0, 1.0), (5.0, 5.0), (30.0, 1.0), (30.0, 5.0), (30.0, 15.0), (60.0, 15.0)]


def make_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint, or a name of s3prl's hub, or embedded")
    parser.add_argument("--minutes", type=float, default=5, help="of audio (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    return parser


def main() -> None:
    """The command."""
    args = make_parser().parse_args()
    from s3prl_pruned.config import UserError
    from s3prl_pruned.data.corpus import embedded_corpus
    from s3prl_pruned.data.listing import files_below
    from s3prl_pruned.data.waveforms import read_waveform
    from s3prl_pruned.features.chunks import Chunks
    from s3prl_pruned.features.loaded import load

    if not args.minutes * 60 >= 1:
        raise UserError(f"`--minutes` must be a second or more, but is {args.minutes:g}.")
    encoder, parts, samples = load(args.model, device=args.device), [], round(args.minutes * 60 * 16_000)
    for path in files_below([embedded_corpus() / "train"]):
        parts.append(read_waveform(path))
        if sum(map(len, parts)) >= samples:
            break
    wav = torch.cat(parts)[:samples].to(args.device)
    rows, whole = [], None
    for setting in (None, *SECONDS):
        chunks = setting and Chunks(*setting)
        begun = time.perf_counter()
        states = encoder.extract(wav, chunks=chunks).cpu()
        spent = time.perf_counter() - begun
        whole = states if whole is None else whole
        errors = ((states - whole).flatten(1).norm(dim=1) / whole.flatten(1).norm(dim=1)).tolist()
        chosen = (0, len(errors) // 2, -1)
        rows.append(
            {
                "cut": "whole" if setting is None else f"{setting[0]:g} s, {setting[1]:g} s on each side",
                "seconds": spent,
                **{f"error_{i}": errors[i] for i in chosen},
            }
        )
    last = len(whole) - 1
    columns = [Column("cut"), Column("seconds", "time", align="right", show="{:.1f} s")]
    for i, name in ((0, "state 0"), (len(whole) // 2, f"state {len(whole) // 2}"), (-1, f"state {last}")):
        columns.append(Column(f"error_{i}", name, align="right", show="{:.2%}"))
    print(f"{args.model}, {len(wav) / 16_000 / 60:.1f} minutes of embedded speech, {args.device}")
    print(Table(columns, rows).text())


if __name__ == "__main__":
    command_line(main)
