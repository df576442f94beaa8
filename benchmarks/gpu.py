"""All measurements that need a GPU, in one command of less than ten minutes: `make gpu`.

    python -m benchmarks.gpu --output gpu                        # on a machine with an NVIDIA GPU
    python -m benchmarks.gpu --output try --device cpu --quick   # only to check that it runs
    python -m benchmarks.gpu --output gpu --parts errors,long    # some parts (`--help` lists them)
    python -m benchmarks.gpu --table gpu/gpu.json                # the tables of an existing document

Each part is a process with its own time limit: a part that fails or takes too long loses only its own numbers, and the
reason is recorded. The most important parts run first, and none starts after the ten minutes. If s3prl is not
installed, its rows are missing and transformers' dense model is the baseline. Writes gpu.json after every part, so that
nothing is lost if it is stopped, then gpu.md, and each part's output under logs/. Exit status 1: a part failed.
"""

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts import GpuPart, baseline, parts
from benchmarks.gpu_report import markdown
from s3prl_pruned.checkpoint import write_text
from s3prl_pruned.command_line import command_line
from s3prl_pruned.config import UserError
from s3prl_pruned.superb.results.result import read_json

ROOT = Path(__file__).resolve().parents[1]
BUDGET_S = 590.0
"""Seconds for all parts together."""
_SHORTEST_S = 10.0  # with less time left no part is started


@dataclass(kw_only=True)
class PartResult:
    """The outcome of a part."""

    title: str
    command: list[str]
    seconds: float
    reason: str | None
    """Why all or some of its numbers are missing; None if none are."""
    result: Any
    """JSON data: its last line of output; None if there is none."""


def main(argv: list[str] | None = None) -> None:
    """The command.

    Args:
        argv: command line; None: the process's own.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, metavar="DIR", help="for gpu.json, gpu.md and logs/")
    parser.add_argument("--table", type=Path, metavar="JSON", help="measure nothing: print this document's tables")
    parser.add_argument("--device", default="cuda", help="torch device (default: cuda)")
    parser.add_argument("--quick", action="store_true", help="small models and few runs: whether it works, no results")
    names = [part.name for part in parts("cuda", quick=False)]
    parser.add_argument("--parts", metavar="NAME,NAME", help=f"of {', '.join(names)} (default: all)")
    args = parser.parse_args(argv)
    if args.table:
        print(markdown(read_json(args.table)))
        return
    if args.output is None:
        raise UserError("nowhere to write to. Give --output, such as --output gpu.")
    wanted = args.parts.split(",") if args.parts else names
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise UserError(f"`parts` must be of {names}, but has {unknown}.")
    if (args.output / "gpu.json").exists():
        raise UserError(f"{args.output}/gpu.json: exists already, and is never overwritten. Name another folder.")
    chosen = [part for part in parts(args.device, quick=args.quick) if part.name in wanted]
    data = measure(chosen, args.output, device=args.device, quick=args.quick)
    write_text(args.output / "gpu.md", markdown(data))
    print(markdown(data))
    print(f"written: {args.output}/gpu.json, {args.output}/gpu.md")
    if any(part["reason"] for part in data["parts"].values()):
        sys.exit(1)


def measure(chosen: list[GpuPart], folder: Path, *, device: str, quick: bool, budget_s: float = BUDGET_S) -> dict:
    """Run parts one after the other, and write the results after each.

    Args:
        chosen: the parts, in the order in which they are run.
        folder: folder for the files.
        device: torch device, for the document.
        quick: for the document.
        budget_s: seconds for all parts.

    Returns:
        The document.
    """
    began = time.monotonic()
    data: dict[str, Any] = {
        "device": device,
        "quick": quick,
        "baseline": baseline(quick=quick),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "parts": {},
    }
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    for part in chosen:
        left = budget_s - (time.monotonic() - began)
        print(f"{part.name}: {part.title}", file=sys.stderr, flush=True)
        found = run_part(part, folder / "logs", limit_s=min(part.limit_s, left))
        data["parts"][part.name] = asdict(found)
        data["seconds"] = time.monotonic() - began
        write_text(folder / "gpu.json", json.dumps(data, indent=1, allow_nan=False) + "\n")
        outcome = "done" if found.reason is None else found.reason
        print(f"  {found.seconds:.0f} s: {outcome}", file=sys.stderr, flush=True)
    return data


def run_part(part: GpuPart, logs: Path, *, limit_s: float) -> PartResult:
    """Run one part in its own process group, which is killed at its time limit.

    Args:
        part: the part to run.
        logs: folder for its output.
        limit_s: time limit in seconds.
    """
    known = {"title": part.title, "command": part.command}
    if limit_s < _SHORTEST_S:
        return PartResult(**known, seconds=0.0, reason="not begun: no time was left", result=None)
    began = time.monotonic()
    output, errors = logs / f"{part.name}.out", logs / f"{part.name}.err"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with open(output, "wb") as out, open(errors, "wb") as err:
        process = subprocess.Popen(
            [sys.executable, *part.command], stdout=out, stderr=err, cwd=ROOT, env=environment, start_new_session=True
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):  # its child processes (compilers, data loaders) are killed too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    result = _last_document(output)
    return PartResult(
        **known,
        seconds=time.monotonic() - began,
        reason=_reason(code, limit_s, result, errors, part.codes),
        result=result,
    )


def _reason(code: int | None, limit_s: float, result: Any, errors: Path, good: tuple[int, ...]) -> str | None:
    if code is None:
        return f"ended after its {limit_s:.0f} s" + ("; the results until then are kept" if result else "")
    if code in good and result is not None:
        return None
    lines = [line for line in errors.read_text(errors="replace").splitlines() if line.strip()]
    return f"exit status {code}: {lines[-1][:300] if lines else 'no output'}"


def _last_document(output: Path) -> Any:
    """The last line of a part's output that is a JSON object."""
    for line in reversed(output.read_text(errors="replace").splitlines()):
        if line.startswith("{"):
            with suppress(ValueError):  # a truncated line
                return json.loads(line)
    return None


if __name__ == "__main__":
    command_line(main)
