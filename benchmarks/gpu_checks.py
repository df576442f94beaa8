"""Parts of `benchmarks.gpu` that have no other command: errors of half precision, long audio, the tests for CUDA.

    python -m benchmarks.gpu_checks errors --device cuda

The last line of output is one JSON object; `long` prints it again after each row.
"""

import argparse
import json
import re
import subprocess
import sys
import time

import torch

from benchmarks.gpu_parts import baseline
from s3prl_pruned.command_line import command_line
from s3prl_pruned.data.corpus import embedded_corpus
from s3prl_pruned.data.sources import open_corpus
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.timing.memory import peak_memory
from s3prl_pruned.timing.models import Builder
from s3prl_pruned.timing.names import parse
from s3prl_pruned.timing.runs import first_line, on_device, synchronize


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", choices=["errors", "long", "tests"])
    parser.add_argument("--device", default="cuda", help="torch device (default: cuda)")
    parser.add_argument("--quick", action="store_true", help="small models and short audio")
    parser.add_argument("--files", default="", help="of tests, by commas")
    args = parser.parse_args()
    if args.check == "tests":
        found = run_tests([name for name in args.files.split(",") if name])
        print(json.dumps(found))
        if found["failed"]:
            sys.exit(1)
        return
    with on_device(torch.device(args.device)), torch.inference_mode():
        if args.check == "errors":
            print(json.dumps({"rows": errors(args.device, quick=args.quick)}, allow_nan=False))
        else:
            long_audio(args.device, quick=args.quick)


def errors(device: str, *, quick: bool) -> list[dict]:
    """Errors of half precision relative to fp32, for each model and precision, on speech.

    Returns:
        JSON rows: `model`, `precision`, `states` (by hidden state, the norm of the difference over the norm in fp32),
        or `reason` if it cannot run. Random weights, except for the trained `wavlm_embedded`.
    """
    wav = open_corpus(embedded_corpus(), ["dev"])[0].read().to(device)
    random, trained = Builder(random=True, device=device), Builder(random=False, device=device)
    names = [(trained, "ours:wavlm_embedded")]
    if not quick:
        names += [(random, name) for name in ("ours:dense", "ours:even", "ours:conc", baseline(quick=False))]
    rows = []
    for builder, name in names:
        exact = [state.double() for state in builder.build(parse(f"{name}+fp32")).encode([wav])]
        for precision in ("bf16",) if quick else ("bf16", "fp16"):
            row: dict = {"model": name, "precision": precision}
            try:
                states = builder.build(parse(f"{name}+{precision}")).encode([wav])
                row["states"] = [
                    _finite((state.double() - true).norm() / true.norm())
                    for state, true in zip(states, exact, strict=True)
                ]
            except Exception as error:  # such as a kernel that this device lacks
                row["reason"] = first_line(error)
            rows.append(row)
    return rows


def _finite(value: torch.Tensor) -> float | None:
    return float(value) if bool(torch.isfinite(value)) else None


def long_audio(device: str, *, quick: bool) -> None:
    """Time and memory of one call with minutes of noise, a row at a time."""
    if quick:
        wanted = [("ours:wavlm_embedded", 2.0)]
    else:
        wanted = [("ours:conc", 600.0), ("ours:conc", 3600.0), ("ours:even", 600.0), ("ours:dense", 600.0)]
    builder, rows = Builder(random=True, device=device), []
    for name, seconds in wanted:
        row: dict = {"model": name, "length_s": seconds, "precision": "bf16"}
        try:
            made = builder.build(parse(f"{name}+bf16"))
            assert made.module is not None, "torch's models have one"
            wav = 0.1 * torch.randn(round(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(0))
            batch = [wav.to(device)]
            memory = peak_memory(made.module, made.encode, batch)  # also warms up
            row |= {"peak_bytes": memory.live, "reserved_bytes": memory.reserved}
            synchronize(batch[0].device)
            began = time.perf_counter()
            finite = all(bool(torch.isfinite(state).all()) for state in made.encode(batch))
            synchronize(batch[0].device)
            row |= {"seconds": time.perf_counter() - began, "finite": finite}
        except Exception as error:  # such as out of memory, or a failing kernel
            row["reason"] = first_line(error)
        rows.append(row)
        print(json.dumps({"rows": rows}, allow_nan=False), flush=True)


def run_tests(files: list[str]) -> dict:
    """Pytest's summary line for the tests marked `cuda`, and the names of failed tests."""
    if not files:
        return {"summary": "no test is marked cuda", "failed": []}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", *files]
    done = subprocess.run([*command, "--continue-on-collection-errors", "-rfE"], capture_output=True, text=True)
    print(done.stdout, done.stderr, file=sys.stderr)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if not lines:
        raise RuntimeError(f"pytest printed nothing (exit status {done.returncode}): {done.stderr[-300:]}")
    failed = [line for line in lines if re.match(r"(FAILED|ERROR) ", line)]
    return {"summary": lines[-1].strip("= "), "failed": failed, "exit_status": done.returncode}


if __name__ == "__main__":
    command_line(main)
