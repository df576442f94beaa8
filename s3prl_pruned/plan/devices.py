"""The GPUs that a plan's jobs are shared out over: each job sees one of them, by `CUDA_VISIBLE_DEVICES`."""

import os
from dataclasses import dataclass

from s3prl_pruned.config import UserError


@dataclass(frozen=True)
class Devices:
    """GPUs, and how many jobs share one; without names, every job sees what this process sees."""

    names: tuple[str, ...] = ()
    """As `CUDA_VISIBLE_DEVICES` names them."""
    jobs_each: int = 1

    @property
    def places(self) -> int | None:
        """How many jobs can run on them at a time; None where nothing limits them."""
        return len(self.names) * self.jobs_each or None

    def at_a_time(self, jobs: int) -> int:
        """How many of so many jobs really run at a time."""
        return min(jobs, self.places or jobs)

    def least_busy(self, taken: list[str]) -> str | None:
        """The device for one more job; None where all are full.

        Args:
            taken: the device of each job that runs.
        """
        free = [name for name in self.names if taken.count(name) < self.jobs_each]
        return min(free, key=taken.count, default=None)


def find_devices(named: str | None = None, *, jobs_each: int = 1, device: str | None = None) -> Devices:
    """The GPUs that jobs are to be shared out over.

    Args:
        named: `--devices`, such as `0,1` or `none`; None: all that this process sees.
        jobs_each: `--jobs-per-device`.
        device: `--device` of the jobs. One that is not plain `cuda` is for all of them, so that nothing is shared out.

    Raises:
        UserError: a device is named twice.
    """
    if device not in (None, "cuda") or named == "none":
        return Devices()
    names = _visible() if named is None else tuple(name.strip() for name in named.split(","))
    if len(set(names)) < len(names) or "" in names:
        raise UserError(f"--devices must name each GPU once, such as 0,1, but is {named!r}.")
    return Devices(names, jobs_each)


def _visible() -> tuple[str, ...]:
    import torch

    count = torch.cuda.device_count()  # makes no context on any of them
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(map(str, range(count)) if visible is None else visible.split(",")[:count])
