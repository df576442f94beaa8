"""The JSON document of a benchmark: the results, the machine and the versions."""

import datetime
import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import s3prl_pruned
from s3prl_pruned import compat
from s3prl_pruned.timing.clock import NOISY, TimingResult
from s3prl_pruned.timing.environment import cpu_name, environment
from s3prl_pruned.timing.runs import TimingSetting

_LIBRARIES = ("transformers", "torchaudio", "onnxruntime", "openvino")


def document(setting: TimingSetting, results: Sequence[TimingResult], *, dtype: str = "float32", **more: Any) -> dict:
    """JSON data: the setting, dtype, versions, commit, machine and all results; `more` is added unchanged."""
    return {
        **asdict(setting),
        "dtype": dtype,
        "versions": versions(),
        "commit": commit(),
        "machine": machine(setting.device),
        "environment": environment(setting.device),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "noise_bound": NOISY,
        "noisy": [result.name for result in results if result.noisy],
        **more,
        "results": [asdict(result) for result in results],
    }


def versions() -> dict[str, str]:
    """Versions of the installed libraries that are timed; found without importing them."""
    found = {
        "s3prl_pruned": s3prl_pruned.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
    found.update((host.name, host.version) for host in compat.installed_hosts())
    for name in _LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def commit() -> str | None:
    """The clone's commit, with `-dirty` if tracked files differ from it; None outside a clone."""
    root = Path(s3prl_pruned.__file__).parents[1]
    if not (root / ".git").exists():  # installed, perhaps inside another repository
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def machine(device: str) -> str:
    """The GPU, or the CPU with the instruction set that torch uses."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.backends.cpu.get_cpu_capability()}"
