"""The costs of a chunk of 0.5 to 2 s in a program that starts: loading, the first call, a warm call, memory.

Each measurement is a new process, in which nothing has been loaded: `python -m s3prl_pruned.timing.chunks` reads a
`ChunkTask` as JSON from standard input, and its last line of output is the result. Imports are done before the clock
starts: they are the same for all models.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.formats.folder import save_encoder
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.resources import PACKAGE
from s3prl_pruned.timing.adapters import Encode
from s3prl_pruned.timing.memory import peak_memory, private_bytes
from s3prl_pruned.timing.models import Builder
from s3prl_pruned.timing.names import OUR_ENCODER, parse
from s3prl_pruned.timing.runs import first_line, on_device, synchronize, torch_threads
from s3prl_pruned.timing.runtimes import RuntimeFiles, encode_runtime, require
from s3prl_pruned.timing.timed_model import TimedModel

SECONDS = (0.5, 1.0, 2.0)
_WARM_CALLS = 5
_WARM_SECONDS = 0.3


@dataclass(kw_only=True)
class ChunkTask:
    """The task of one process."""

    name: str
    """A model to load from files (`names.GRAMMAR`), or an ONNX file."""
    runtime: str | None
    """One of `names.RUNTIMES`, for an ONNX file; None for torch."""
    length_s: float
    device: str
    threads: int
    seed: int


@dataclass(kw_only=True)
class ChunkCosts:
    """The measurements of one process."""

    load_s: float
    """Seconds from files to a model on the device."""
    first_s: float
    """Seconds of the first call."""
    warm_s: float
    """Median seconds of the following calls."""
    peak_bytes: int | None
    """Bytes of live tensors in a call, parameters included; None in a runtime other than torch."""
    resident_bytes: int | None
    """Peak resident bytes of the whole process with its libraries; None where the system (not Linux) does not say."""


def measure_chunks(
    names: list[str],
    folder: Path,
    *,
    lengths: list[float],
    device: str,
    threads: int,
    repeats: int,
    seed: int,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[list[dict], list[dict]]:
    """Measure models side by side, one process at a time, in a new random order in each repeat.

    Args:
        names: names of our models (with random weights, which are written to files first), or files.
        folder: an empty folder for those files.
        lengths: lengths of chunks in seconds.
        device: torch device.
        threads: CPU threads of torch or a runtime.
        repeats: processes for each model and length.
        seed: seed of random weights, noise and order.
        progress: called with lines of text on the progress.

    Returns:
        JSON rows (`name`, `length_s`, and the medians of `ChunkCosts`), and the models that could not be timed (`name`,
        `workload`, `reason`).

    Raises:
        UserError: if a model is from another library.
    """
    builder, exported = Builder(random=True, seed=seed), RuntimeFiles(threads)
    files = {name: _on_disk(name, builder, exported, folder) for name in names}
    tasks = [(name, length) for name in names for length in lengths]
    measured: dict[tuple[str, float], list[ChunkCosts]] = {task: [] for task in tasks}
    reasons: dict[tuple[str, float], str] = {}
    order = random.Random(seed)
    for repeat in range(repeats):
        for name, length in order.sample(tasks, len(tasks)):
            if (name, length) in reasons:
                continue
            progress(f"{name}, {length:g} s, process {repeat + 1} of {repeats}")
            task = ChunkTask(
                name=files[name],
                runtime=parse(name).runtime,
                length_s=length,
                device=device,
                threads=threads,
                seed=seed,
            )
            found = _in_a_process(task)
            if isinstance(found, str):
                reasons[name, length] = found
            else:
                measured[name, length].append(found)
    rows = [
        {"name": name, "length_s": length, **_medians(measured[name, length])}
        for name, length in tasks
        if (name, length) not in reasons
    ]
    lost = [{"name": name, "workload": f"{length:g} s", "reason": reason} for (name, length), reason in reasons.items()]
    return rows, lost


def _on_disk(text: str, builder: Builder, exported: RuntimeFiles, folder: Path) -> str:
    """The model as a file's name; the file is written if the model is a named structure, or for a runtime."""
    name = parse(text)
    if name.library not in OUR_ENCODER:
        raise UserError(f"{text!r}: chunks are measured with our own models only, such as ours:conc or an export.")
    if name.library == "file" and not name.runtime:
        return text
    source = name.source if name.library == "file" else f"{name.library}:{name.source}"
    made = builder.build(parse(source)).module
    assert isinstance(made, SpeechEncoder), "ours are"
    if name.runtime:
        require(name.runtime)
        return str(exported.file(made, source, int8=name.precision == "int8"))
    path = folder / f"{len(list(folder.iterdir()))}"
    save_encoder(path, made, {"teacher_note": "random weights"})
    return "+".join([str(path), *name.variants])


def _medians(found: list[ChunkCosts]) -> dict[str, Any]:
    values = {one.name: [getattr(costs, one.name) for costs in found] for one in fields(ChunkCosts)}
    return {key: None if None in column else statistics.median(column) for key, column in values.items()}


def _in_a_process(task: ChunkTask) -> ChunkCosts | str:
    """The measurements of a new process, or the reason why it failed."""
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "s3prl_pruned.timing.chunks"],
        input=json.dumps(asdict(task)),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    lines = [line for line in (done.stdout or done.stderr).splitlines() if line.strip()]
    if done.returncode:
        return lines[-1][:300] if lines else f"exit status {done.returncode}"
    return ChunkCosts(**json.loads(lines[-1]))


def measure_here(task: ChunkTask) -> ChunkCosts:
    """Load and call a model in this process, which has not loaded any before."""
    device = torch.device(task.device)
    import_module("s3prl_pruned.upstream.load")  # else the builder would import it while the clock runs
    builder = Builder(random=False, device=task.device, threads=task.threads)
    generator = torch.Generator().manual_seed(task.seed)
    batch = [(0.1 * torch.randn(round(task.length_s * SAMPLE_RATE), generator=generator)).to(device)]

    def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
        synchronize(device)
        began = time.perf_counter()
        result = call()
        synchronize(device)
        return time.perf_counter() - began, result

    with torch_threads(task.threads), on_device(device), torch.inference_mode():
        before = private_bytes(device)
        load, made = seconds(lambda: _load(task, builder))
        encode = made.encode if isinstance(made, TimedModel) else made
        first, _ = seconds(lambda: encode(batch))
        warm: list[float] = []
        while len(warm) < _WARM_CALLS or sum(warm) < _WARM_SECONDS:
            warm.append(seconds(lambda: encode(batch))[0])
        resident = _most_resident()
        module = made.module if isinstance(made, TimedModel) else None
        memory = module and peak_memory(module, encode, batch, graph_bytes=private_bytes(device) - before)
    return ChunkCosts(
        load_s=load,
        first_s=first,
        warm_s=statistics.median(warm),
        peak_bytes=memory.live if memory else None,
        resident_bytes=resident,
    )


def _most_resident() -> int | None:
    """Peak resident bytes of this process (`getrusage` on Linux includes the parent's before the start)."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), None)


def _load(task: ChunkTask, builder: Builder) -> TimedModel | Encode:
    if task.runtime:
        return encode_runtime(task.runtime, Path(task.name), threads=task.threads)
    return builder.build(parse(task.name))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    try:
        print(json.dumps(asdict(measure_here(ChunkTask(**json.load(sys.stdin))))))
    except Exception as error:  # libraries, compilers and drivers raise all kinds of errors
        print(first_line(error))
        sys.exit(1)
