"""The GPUs over which a plan's jobs are distributed: each job sees one GPU, by `CUDA_VISIBLE_DEVICES`."""

import os
from dataclasses import dataclass

from s3prl_pruned.config import UserError


@dataclass(frozen=True)
class Devices:
    """GPUs, and how many jobs share one; without names, every job sees the GPUs of this process."""

    names: tuple[str, ...] = ()
    """Names as in `CUDA_VISIBLE_DEVICES`."""
    jobs_each: int = 1

    @property
    def places(self) -> int | None:
        """How many jobs can run on the GPUs at a time; None if unlimited."""
        return len(self.names) * self.jobs_each or None

    def at_a_time(self, jobs: int) -> int:
        """How many of `jobs` jobs really run at a time."""
        return min(jobs, self.places or jobs)

    def least_busy(self, taken: list[str]) -> str | None:
        """The device for one more job; None if all are full.

        Args:
            taken: the device of each running job.
        """
        free = [name for name in self.names if taken.count(name) < self.jobs_each]
        return min(free, key=taken.count, default=None)


def find_devices(named: str | None = None, *, jobs_each: int = 1, device: str | None = None) -> Devices:
    """Find the GPUs to distribute jobs over.

    Args:
        named: `--devices`, such as `0,1` or `none`; None: all GPUs that this process sees.
        jobs_each: `--jobs-per-device`.
        device: `--device` of the jobs. If it is not plain `cuda`, all jobs use it, and no GPUs are distributed.

    Raises:
        UserError: if a device is named twice.
    """
    if device not in (None, "cuda") or named == "none":
        return Devices()
    names = _visible() if named is None else tuple(name.strip() for name in named.split(","))
    if len(set(names)) < len(names) or "" in names:
        raise UserError(f"--devices must name each GPU once, such as 0,1, but is {named!r}.")
    return Devices(names, jobs_each)


def _visible() -> tuple[str, ...]:
    import torch

    count = torch.cuda.device_count()  # creates no CUDA context
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(map(str, range(count)) if visible is None else visible.split(",")[:count])
