"""What timings depend on besides the models: processor, driver, clocks, libraries' switches. Read, never set."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

_GPU_FIELDS = (
    "name", "driver_version", "pstate", "clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem", "power.draw",
    "power.limit", "temperature.gpu", "utilization.gpu", "memory.used", "memory.total",
)  # fmt: skip
# Instruction sets that matter for matrix products and convolutions, as in /proc/cpuinfo (`asimd` and `sve`: ARM).
_INSTRUCTION_SETS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16", "asimd", "asimddp", "bf16", "i8mm", "sve", "sve2",
)  # fmt: skip


def environment(device: str) -> dict[str, Any]:
    """JSON data about the processor, torch's switches and, for a CUDA device, the GPU.

    Args:
        device: torch device that models are timed on.
    """
    found: dict[str, Any] = {"cpu": cpu(), "torch": switches()}
    if torch.device(device).type == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        found["gpu"] = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "capability": capability}
        found["gpu"]["nvidia_smi"] = nvidia_smi(device)
    return found


def cpu() -> dict[str, Any]:
    """The CPU's name, instruction sets and cores, and the number of torch's threads."""
    return {
        "name": cpu_name(),
        "architecture": platform.machine(),
        "instruction_sets": instruction_sets(),
        "torch_uses": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "cores_of_this_process": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "interop_threads": torch.get_num_interop_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }


def cpu_name() -> str:
    """The CPU's name as the system reports it."""
    names = _cpuinfo("model name")
    return names or platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """The processor's instruction sets that matter here, used by torch or not; empty where the system does not say."""
    flags = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return [name for name in _INSTRUCTION_SETS if name in flags]


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def switches() -> dict[str, Any]:
    """Switches of torch that change which kernels run."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    backends = {
        "flash": cuda.flash_sdp_enabled(),
        "memory_efficient": cuda.mem_efficient_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
        "cudnn": cuda.cudnn_sdp_enabled(),
    }
    return {
        "sdpa": [name for name, enabled in backends.items() if enabled],
        "cudnn_enabled": cudnn.enabled,
        "cudnn_benchmark": cudnn.benchmark,
        "cudnn_deterministic": cudnn.deterministic,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "bf16_reduced_precision_reduction": bool(cuda.matmul.allow_bf16_reduced_precision_reduction),
        "fp16_reduced_precision_reduction": bool(cuda.matmul.allow_fp16_reduced_precision_reduction),
        "mkldnn": torch.backends.mkldnn.enabled,
    }


def nvidia_smi(device: str) -> dict[str, str] | None:
    """Current readings of `nvidia-smi` for a CUDA device (MHz, W, degrees Celsius, %, MiB); None if it cannot be read.

    Args:
        device: such as `cuda:1`; found by its UUID, since CUDA_VISIBLE_DEVICES renumbers devices.
    """
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    which = str(torch.device(device).index or 0) if uuid is None else f"GPU-{uuid}"
    query = ["nvidia-smi", f"--id={which}", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    values = [value.strip() for value in text.strip().split(",")]
    return dict(zip(_GPU_FIELDS, values, strict=True)) if len(values) == len(_GPU_FIELDS) else None
