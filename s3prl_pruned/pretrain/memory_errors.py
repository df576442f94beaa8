"""Peak memory of training, and a clear error if memory runs out."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.pretrain.config import RunnerConfig


@contextmanager
def memory_error_named(config: RunnerConfig, device: str) -> Iterator[None]:
    """Turn out-of-memory errors into a `UserError` that says which settings to lower.

    Args:
        config: configuration of the run.
        device: `cpu` or `cuda`.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).splitlines()[0] if str(error) else "MemoryError"
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "allocate memory" not in text:
            raise
        datarc, loop = config.pretrain_expert.datarc, config.runner
        raise UserError(
            f"out of memory ({text}). A micro-batch holds {datarc.batch_size_in_words()} of at most "
            f"{datarc.max_seconds} s; `runner.max_seconds_at_once` is {loop.max_seconds_at_once}, "
            f"`runner.gradient_checkpointing` {loop.gradient_checkpointing} and `runner.gradient_accumulate_steps` "
            f"{loop.gradient_accumulate_steps}. Two settings need less memory and keep the losses: "
            "`-o runner.gradient_checkpointing=true`, and `-o runner.max_seconds_at_once=100` (or less), which "
            f"computes a micro-batch in parts. Peak so far: {peak_memory(device):.2f} GiB. No step was skipped."
        ) from error


def peak_memory(device: str) -> float:
    """Largest memory of this process so far, in GiB: allocated on the GPU, or resident on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
