"""One process or many: the few collective operations that training needs, no-ops on one process.

Why neither DistributedDataParallel nor accelerate (which wraps it): both average gradients per backward pass, while
here they are summed once per optimiser step, over micro-batches whose number may differ from rank to rank; which
weights get a gradient changes from step to step with the masks (`find_unused_parameters`); and the masks are not
parameters, but their gradients must be summed before eq. 4's clip, which no wrapper does. What remains useful of them,
summing gradients in buckets that overlap with the backward pass, is in `pretrain/gradients.py`.
"""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from s3prl_pruned.config import UserError

T = TypeVar("T")


class ProcessLost(UserError):
    """Another process of the run ended or does not answer."""


def start(device: str, *, timeout_seconds: float) -> str:
    """Join the processes that `torchrun` started, each on its own GPU (gloo on CPU, nccl on CUDA).

    Args:
        device: the value of `--device`.
        timeout_seconds: how long to wait for a process that does not answer before stopping with an error.

    Returns:
        The device of this process; `device` itself when there is one process only.

    Raises:
        UserError: there is no such device, or only some of the launcher's variables are set.
    """
    launched = launched_processes()
    if launched > 1 and device == "cuda":
        device = f"cuda:{local_rank()}"
    check_device(device)
    if launched == 1:
        return device
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    with losses_named():
        dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout_seconds))
    return device


def launched_processes() -> int:
    """Number of processes started together, from the variables that `torchrun` sets; 1 without `torchrun`.

    Raises:
        UserError: only some of the variables are set, or they contradict each other.
    """
    world = _number("WORLD_SIZE", 1)
    is_launched = "RANK" in os.environ or world > 1
    needed = ["RANK", "WORLD_SIZE", *(["MASTER_ADDR", "MASTER_PORT"] if world > 1 else [])] if is_launched else []
    missing = [name for name in needed if not os.environ.get(name)]
    if missing:
        raise UserError(f"only some of the launcher's variables are set: {', '.join(missing)} missing. {_LAUNCH}")
    if not 0 <= _number("RANK", 0) < world:
        raise UserError(f"RANK must be from 0 to WORLD_SIZE - 1, but is {os.environ['RANK']} of {world}. {_LAUNCH}")
    if world > 1:
        _number("MASTER_PORT", 0)
    return world


def local_rank() -> int:
    """This process's number on its machine."""
    return _number("LOCAL_RANK", 0)


_LAUNCH = "Start with torchrun, or unset RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT for one process."


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or (name == "WORLD_SIZE" and int(text) < 1):
        raise UserError(f"the variable {name} must be a whole number, but is {text!r}. {_LAUNCH}")
    return int(text)


def check_device(device: str) -> None:
    """Raise a `UserError` for a device that this machine does not have, or that stores no values (`meta`)."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"`--device` is {device}, but torch {torch.__version__} sees no GPU here. Use --device cpu.")
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # torch raises another type for each kind of device
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(f"`--device` must be one that works here, such as cpu, but is {device!r}: {reason}") from error


def stop() -> None:
    """Leave the process group."""
    if _many():
        dist.destroy_process_group()


def restarted() -> bool:
    """Whether `torchrun --max-restarts` started this process anew after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def rank() -> int:
    """This process's number, 0 to ``world_size() - 1``."""
    return dist.get_rank() if _many() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _many() else 1


def is_main() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return rank() == 0


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of ``tensor`` over all processes, bit for bit the same on each. The argument is not changed.

    No gradient passes through. On one process this is ``tensor`` itself.

    Raises:
        ProcessLost: another process is gone, or did not answer in time.
    """
    if not _many():
        return tensor
    total = tensor.detach().clone()
    with losses_named():
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total


def all_reduce_sums(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """``all_reduce_sum`` of several tensors of one dtype, in one call."""
    if not _many() or not tensors:
        return tensors
    summed = all_reduce_sum(torch.cat([tensor.flatten() for tensor in tensors]))
    parts = summed.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def gather(item: T) -> list[T]:
    """Every process's ``item`` (plain data or CPU tensors), in order of rank, on every process."""
    if not _many():
        return [item]
    items: list = [None] * world_size()
    with losses_named():
        dist.all_gather_object(items, item)
    return items


def refuse_different(named: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise UserError unless all processes hold the same tensors, bit for bit, as training together requires.

    Args:
        named: names and tensors, such as `module.state_dict().items()`.
    """
    if not _many():
        return
    digests = {name: hashlib.sha256(_bytes_of(tensor)).hexdigest() for name, tensor in named}
    first, *others = gather(digests)
    for number, other in enumerate(others, start=1):
        names = sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name))
        if names:
            raise UserError(
                f"processes must start from the same values, but {len(names)} tensors of process {number} differ "
                f"from those of process 0 ({', '.join(names[:3])}). Give all processes the same teacher file, recipe "
                "and versions."
            )


def _bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def from_main(function: Callable[[], T]) -> T:
    """Call ``function`` on the main process alone; every process gets its result, or its UserError."""
    if not _many():
        return function()
    outcome: list[tuple[T | None, str | None]] = [(None, None)]
    if is_main():
        try:
            outcome = [(function(), None)]
        except UserError as error:
            outcome = [(None, str(error))]
    with losses_named():
        dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
    ((result, refusal),) = outcome
    if refusal is not None:
        raise UserError(refusal)
    return cast(T, result)


@contextmanager
def losses_named() -> Iterator[None]:
    """Turn the error of torch's collectives when another process is gone into a `ProcessLost`."""
    try:
        yield
    except RuntimeError as error:  # DistBackendError, or gloo's own error
        raise ProcessLost(
            f"another process of this run ended or does not answer ({str(error).splitlines()[0][:200]}). Look for its "
            "own error above this one; then start all of them again with -a."
        ) from error


def _many() -> bool:
    return dist.is_available() and dist.is_initialized()
