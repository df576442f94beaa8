"""The parts of `benchmarks.gpu`: commands and time limits."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from s3prl_pruned import compat

_ROOT = Path(__file__).resolve().parents[1]
_PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class GpuPart:
    """An independent measurement."""

    name: str
    title: str
    command: list[str]
    """Arguments of Python, run in the clone's root. Its last line of output is a JSON object."""
    limit_s: float
    codes: tuple[int, ...] = (0, 1)
    """Exit statuses with a complete result: `tools/timing.py` returns 1 if a row is missing, and says which."""


def baseline(*, quick: bool) -> str:
    """The dense model for speed-ups: s3prl's, or transformers' if s3prl is not installed, or ours."""
    shape = "wavlm_embedded" if quick else "wavlm_base"
    if compat.installed_hosts():
        return f"s3prl:{shape}"
    return f"hf:{shape}" if find_spec("transformers") else f"ours:{shape}"


def parts(device: str, *, quick: bool) -> list[GpuPart]:
    """All parts, the most important first.

    Args:
        device: torch device.
        quick: small models and few runs.
    """
    return [*_inference(device, quick), *_errors(device, quick), *_training(device, quick), *_others(device, quick)]


def _timing(device: str, *options: str) -> list[str]:
    return ["tools/timing.py", "--device", device, "--random", *options]


def _inference(device: str, quick: bool) -> Iterator[GpuPart]:
    base = baseline(quick=quick)
    dense = base.partition("+")[0]
    structures = ("wavlm_embedded",) if quick else ("dense", "even", "conc")
    lengths = "0.2,2x0.3" if quick else "1,5,15,12x5"
    time = ("--min-seconds", "0.05") if quick else ("--min-seconds", "0.5")
    others = () if base.startswith("s3prl") else (dense.replace("hf:", "s3prl:").replace("ours:", "s3prl:"),)
    for precision in ("fp32",) if quick else _PRECISIONS:
        ours = [
            f"ours:{name}+{precision}{how}" for name in structures for how in (("",) if quick else ("", "+compiled"))
        ]
        models = [f"{dense}+{precision}", *others, *ours]
        yield GpuPart(
            name=f"inference_{precision}",
            title=f"Inference in {precision}, plain and with graphs",
            command=_timing(
                device, "--baseline", f"{dense}+fp32", "--models", ",".join(models), "--lengths", lengths, *time
            ),
            limit_s=110,
        )
    if not quick:
        models = [f"{dense}+bf16+compiled", "ours:conc+bf16+compiled"]
        yield GpuPart(
            name="baseline_compiled",
            title="The baseline under torch.compile, in bf16",
            command=_timing(
                device, "--baseline", f"{dense}+bf16", "--models", ",".join(models), "--lengths", "5", *time
            ),
            limit_s=100,
        )


def _errors(device: str, quick: bool) -> Iterator[GpuPart]:
    flags = ["--quick"] if quick else []
    yield GpuPart(
        name="errors",
        title="Error of bf16 and fp16 against fp32, by hidden state",
        command=["-m", "benchmarks.gpu_checks", "errors", "--device", device, *flags],
        limit_s=60,
        codes=(0,),
    )
    yield GpuPart(
        name="long",
        title="Long audio in one call, bf16",
        command=["-m", "benchmarks.gpu_checks", "long", "--device", device, *flags],
        limit_s=90,
        codes=(0,),
    )


def _training(device: str, quick: bool) -> Iterator[GpuPart]:
    precision = "fp32" if quick else "bf16"
    for shape, steps, limit in (("paper", "a,d", 120), ("embedded", "b,e", 60)):
        small = ["--batch", "1", "--seconds", "1", "--rounds", "1"] if quick else ["--rounds", "5"]
        steps = steps[0] if quick else steps
        yield GpuPart(
            name=f"training_{shape}",
            title=f"Training step, {shape} shape, {precision}",
            command=[
                "benchmarks/step.py", "--device", device, "--precision", precision, "--shape", shape, "--only", steps,
                *small,
            ],
            limit_s=limit,
            codes=(0,),
        )  # fmt: skip


def _others(device: str, quick: bool) -> Iterator[GpuPart]:
    small = ["--limit", "1", "--repeats", "1"] if quick else []
    dense = baseline(quick=False)
    yield GpuPart(
        name="table2",
        title="The paper's Table 2",
        command=_timing(device, "--paper-table2", "--baseline", dense, *small),
        limit_s=80,
    )
    marked = [path for path in (_ROOT / "tests").rglob("test_*.py") if "mark.cuda" in path.read_text(encoding="utf-8")]
    files = sorted(str(path.relative_to(_ROOT)) for path in marked)
    yield GpuPart(
        name="tests",
        title="Tests that need CUDA",
        command=["-m", "benchmarks.gpu_checks", "tests", "--files", ",".join(files)],
        limit_s=90,
        codes=(0,),
    )
