"""The fastest form of the fast paths at each length: the source of the table in `models/accelerate/paths.py`.

    OMP_NUM_THREADS=1 python benchmarks/paths.py             # minutes, on a quiet machine
    python benchmarks/paths.py --lengths 1 --repeats 2       # only to check that it runs
    OMP_NUM_THREADS=1 python benchmarks/paths.py --dtype bf16
    python benchmarks/paths.py --device cuda --dtype bf16 --batches 1,12,24

Each setting is varied alone, in the operation to which it belongs: `cnn_frames` in the CNN, `positions` and `block` (of
its Fourier transforms) in the positional convolution, `queries` in one layer's attention (WavLM Base, all heads of 13
dimensions). On a GPU only `positions` is varied, in inference and, as `training`, forward and backward. Weights are
random and the audio is noise. Runs are interleaved (`timing/`); ratios are the reference path's time over the value's.
Prints a table and the fastest values per length, and ends with one JSON line.
"""

import argparse
import itertools
import json

import torch

from s3prl_pruned.command_line import command_line
from s3prl_pruned.tables import Column, Table

FORMS = ("conv", "unfold", "fft")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KNOBS = {"cnn_frames": (33, 66, 132, 264, 528), "block": (128, 256, 320, 512), "queries": (64, 128, 256, 512)}

COLUMNS = [
    Column("batch", align="right"),
    Column("length_s", "length", align="right", show="{:g} s"),
    Column("knob"),
    Column("value", align="right"),
    Column("seconds", "time", align="right", show=lambda seconds: f"{1000 * seconds:.2f} ms"),
    Column("ratio", align="right", show="{:.2f}"),
    Column("spread", "+-", align="right", show="{:.2f}"),
]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="1,2,5,15,30", help="seconds (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="runs of each value (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    parser.add_argument("--dtype", default="fp32", choices=DTYPES, help="precision (default: %(default)s)")
    parser.add_argument("--batches", default="1", help="utterances, on a GPU (default: %(default)s)")
    args = parser.parse_args()
    from s3prl_pruned.timing.clock import TimingSetting, compare

    setting = TimingSetting(baseline="reference", repeats=args.repeats, threads=args.threads, device=args.device)
    found = []
    for batch, seconds in itertools.product(map(int, args.batches.split(",")), map(float, args.lengths.split(","))):
        best, rows = {}, []
        for knob, models in knobs(args, batch, seconds).items():
            results = compare(models, setting, seconds=seconds, batch=batch)
            for result in results:
                timed = {"seconds": result.seconds, "ratio": result.ratio}
                found.append({"knob": knob, "value": result.name, "batch": batch, "length_s": seconds, **timed})
                rows.append({**found[-1], "spread": result.ratio_spread})
            best[knob] = max(results, key=lambda result: result.ratio).name
        print(Table(COLUMNS, rows).text())
        print(f"{batch} x {seconds:g} s  fastest: " + ", ".join(f"{knob}={value}" for knob, value in best.items()))
    print(
        json.dumps(
            {
                "device": setting.device,
                "dtype": args.dtype,
                "threads": args.threads,
                "torch": str(torch.__version__),
                "results": found,
            }
        ),
        flush=True,
    )


def knobs(args: argparse.Namespace, batch: int, seconds: float) -> dict:
    """By setting and value, the operation on noise of this size."""
    on_cpu = torch.device(args.device).type == "cpu"
    dtype = DTYPES[args.dtype]
    return models_by_knob(seconds, dtype) if on_cpu else models_by_form(args.device, dtype, batch, seconds)


def models_by_form(device: str, dtype: torch.dtype, batch: int, seconds: float) -> dict:
    """The positional convolution of WavLM Base in each form, in inference and in training (under autocast)."""
    from s3prl_pruned.models.accelerate.paths import Derived, Path
    from s3prl_pruned.models.accelerate.positions import convolve
    from s3prl_pruned.models.components import WeightNormConv1d
    from s3prl_pruned.models.families import wavlm_base

    config = wavlm_base()
    conv = WeightNormConv1d(config.embed_dim, config.pos_conv_kernel, groups=config.pos_conv_groups).to(device)
    trained = WeightNormConv1d(config.embed_dim, config.pos_conv_kernel, groups=config.pos_conv_groups).to(device)
    conv.to(dtype)
    frames = config.num_frames(round(16_000 * seconds))
    x = torch.randn(batch, frames, config.embed_dim, device=device, dtype=dtype)

    def inference(form):
        path = Path(max_frames=None, positions=form, cnn_frames=0)
        return lambda _: convolve(conv, x, Derived(), path)

    def training(form):
        path = Path(max_frames=None, positions=form, cnn_frames=0)

        def step(_):
            with torch.inference_mode(False), torch.enable_grad():
                y = x.clone().requires_grad_()
                with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
                    convolve(trained, y, Derived(), path).sum().backward()

        return step

    rows = {}
    for knob, make in (("positions", inference), ("training", training)):
        rows[knob] = {"reference": make("conv"), **{form: make(form) for form in FORMS[1:]}}
    return rows


def models_by_knob(seconds: float, dtype: torch.dtype) -> dict:
    """By setting and value, the operation on noise of this length; `reference` is the module's own forward pass."""
    from s3prl_pruned.models.accelerate import accelerate, paths
    from s3prl_pruned.models.accelerate.cnn import extract_features
    from s3prl_pruned.models.accelerate.positions import convolve
    from s3prl_pruned.models.encoder import SpeechEncoder
    from s3prl_pruned.models.families import wavlm_base
    from s3prl_pruned.timing.shapes import even

    encoder = accelerate(SpeechEncoder(wavlm_base(), even(wavlm_base())).eval()).to(dtype)
    cnn, positions, attention = encoder.feature_extractor, encoder.positional_convolution, encoder.layers[0].attention
    wavs = (0.1 * torch.randn(1, round(16_000 * seconds))).to(dtype)
    x = torch.randn(1, encoder.config.num_frames(wavs.shape[1]), encoder.config.embed_dim, dtype=dtype)
    by_distance = encoder.relative_position.by_distance(x.shape[1]).detach()

    def reference(call):
        def run(_):
            committed, paths.PATHS = paths.PATHS, {}
            try:
                return call()
            finally:
                paths.PATHS = committed

        return run

    def path(**fields):
        return paths.Path(max_frames=None, **{"cnn_frames": 132, "block": 320, **fields})

    def position(**fields):
        return lambda _: convolve(positions.conv, x, positions.derived, path(**fields))

    def attend(attention, x, by_distance, queries):
        committed, paths.PATHS = paths.PATHS, {("cpu", x.dtype): (path(queries=queries),)}
        try:
            return attention(x, by_distance)
        finally:
            paths.PATHS = committed

    fast = {
        "cnn_frames": lambda value: lambda _: extract_features(cnn.layers, wavs, cnn.derived, frames_at_a_time=value),
        "block": lambda value: position(block=value),
        "positions": lambda value: position(positions=value),
        "queries": lambda value: lambda _: attend(attention, x, by_distance, value),
    }
    slow = {
        "cnn_frames": lambda: cnn(wavs),
        "block": lambda: positions(x),
        "positions": lambda: positions(x),
        "queries": lambda: attention(x, encoder.relative_position(x.shape[1])),
    }
    return {
        knob: {"reference": reference(slow[knob]), **{str(value): fast[knob](value) for value in values}}
        for knob, values in {**KNOBS, "positions": FORMS[1:]}.items()
    }


if __name__ == "__main__":
    command_line(main)
