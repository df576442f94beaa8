"""One planner for many runs: the SUPERB suite, sweeps, experiments and comparisons describe their jobs with it.

    jobs -> levels (checked) -> run.run, some at a time | job_scripts.write_scripts, for a cluster or a plain shell
                                either of them, or a list of the calls, by the options: carry_out.carry_out

A job is a command that may be called again: it starts, resumes what an earlier call began (`-a`), or finds nothing to
do. So the planner keeps no state of its own: the jobs' files alone tell what is finished.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from s3prl_pruned.config import UserError


@dataclass(frozen=True, kw_only=True)
class Job:
    """One command of a plan."""

    name: str
    command: tuple[str, ...]
    log: Path
    """Output of the command in all its calls. Outside of the run's folder, which the command needs empty."""
    done: Path | None = None
    """A file that exists if and only if the job is finished. None: the command is called each time."""
    recheck: bool = False
    """Call a finished job too: its command refuses a result of another model or other settings."""
    after: tuple[str, ...] = ()
    """Names of jobs that must be finished before this job."""
    even_after_failure: bool = False
    """The jobs in `after` must only have ended, even with a failure."""
    threads: int = 1
    workers: int = 0
    """Further processes of the command, such as for reading data."""
    uses_device: bool = True
    """Whether the command computes on a GPU if there is one."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables besides this process's own and the number of threads."""
    seconds: float | None = None
    """Estimated duration in seconds."""

    @property
    def settings(self) -> dict[str, str]:
        """Environment variables to set for the command."""
        return {"OMP_NUM_THREADS": str(self.threads), **self.env}

    def finished(self) -> bool:
        """Whether `done` exists."""
        return self.done is not None and self.done.exists()


@dataclass(frozen=True)
class Failure:
    """A job that did not finish."""

    job: Job
    reason: str
    status: int | None
    """Exit status; None if the command was not called."""


@dataclass
class Report:
    """The outcome of a plan, by the jobs' names."""

    kept: list[str] = field(default_factory=list)
    """Jobs that were finished before, and not called."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of each job that was called and is finished."""
    failures: dict[str, Failure] = field(default_factory=dict)

    def ended(self) -> set[str]:
        """All jobs that are no longer waiting or running."""
        return {*self.kept, *self.seconds, *self.failures}

    @property
    def exit_code(self) -> int:
        """0: all finished; 2: every failed command says that the user can fix it (exit status 2); else 1."""
        statuses = {failure.status for failure in self.failures.values()} - {None}
        return 0 if not self.failures else 2 if statuses == {2} else 1

    def failures_text(self) -> str:
        """Reason, log and command of each failure; empty if there are none."""
        return "\n".join(
            f"failed: {name}: {failure.reason}\n  log: {failure.job.log}\n  {shlex.join(failure.job.command)}"
            for name, failure in self.failures.items()
        )


def levels(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs in levels, each of which waits only for earlier levels; in the plan's order within a level.

    Raises:
        UserError: if jobs share a name or `done`; or wait for an unknown job, in a circle, or for a job without a
            `done` file.
    """
    by_name = {job.name: job for job in jobs}
    for kind, values in (("name", [job.name for job in jobs]), ("done", [str(job.done) for job in jobs if job.done])):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise UserError(f"plan: {kind} must differ between jobs, but {twice[0]!r} is given twice.")
    for job in jobs:
        for other in job.after:
            if other not in by_name:
                raise UserError(f"plan: {job.name} waits for {other!r}, which is not in the plan.")
            if by_name[other].done is None and not job.even_after_failure:
                raise UserError(f"plan: {job.name} waits for {other!r}, which has no `done` file.")
    sorter = TopologicalSorter({job.name: job.after for job in jobs})
    try:
        sorter.prepare()
    except CycleError as error:
        raise UserError(f"plan: jobs must not wait in a circle, but {' before '.join(error.args[1])}.") from None
    found = []
    while sorter.is_active():
        ready = set(sorter.get_ready())
        found.append([job for job in jobs if job.name in ready])
        sorter.done(*ready)
    return found


def remaining_seconds(
    unfinished: Sequence[tuple[Job, float]], finished: Sequence[tuple[Job, float]], *, parallel: int
) -> float | None:
    """Estimated seconds to the end; None if there is nothing to estimate from.

    Args:
        unfinished: jobs, and the seconds that each has run so far.
        finished: jobs, and the seconds that each took. They correct the others' estimates; a job without an estimate
            is expected to take their mean.
        parallel: jobs that run at a time.
    """
    estimated = [(took, job.seconds) for job, took in finished if job.seconds]
    scale = sum(took for took, _ in estimated) / sum(guess for _, guess in estimated) if estimated else 1.0
    mean = sum(took for _, took in finished) / len(finished) if finished else None
    left = []
    for job, elapsed in unfinished:
        expected = job.seconds * scale if job.seconds else mean
        if expected is None:
            return None
        left.append(max(expected - elapsed, 0.0))
    return max(sum(left) / parallel, max(left, default=0.0))


def duration(seconds: float) -> str:
    """A duration as text, such as `45 s`, `12 min`, `3 h 5 min`, `2 d 4 h`."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
