"""What commands do with a plan: list it, write it as job scripts, or run it and report failures."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.own_commands import by_console
from s3prl_pruned.plan.devices import Devices
from s3prl_pruned.plan.job_scripts import Scheduler, write_scripts
from s3prl_pruned.plan.jobs import Job, Report
from s3prl_pruned.plan.run import run


def require_clone(*scripts: str) -> None:
    """Raise UserError unless the working directory is the root of the clone, where jobs call its `scripts`.

    If the user calls `s3prl-pruned`, jobs call no scripts, and any folder will do.
    """
    for script in scripts:
        if not by_console() and not Path(script).is_file():
            raise UserError(f"{Path.cwd()}: must be the root of the clone, but has no {script}. Change into the clone.")


def carry_out(
    jobs: Sequence[Job],
    *,
    name: str,
    parallel: int,
    devices: Devices | None = None,
    dry_run: bool,
    scheduler: Scheduler | None,
    jobs_dir: Path,
) -> Report | None:
    """List a plan, write its job scripts, or run it. Returns None if nothing was run.

    Args:
        jobs: the jobs, in the order in which they should start.
        name: name of the Slurm jobs.
        parallel: maximum of jobs that run at a time.
        devices: GPUs to distribute the jobs over.
        dry_run: only list the calls.
        scheduler: write scripts for this scheduler into `jobs_dir`.
        jobs_dir: new or empty folder.

    Raises:
        UserError: if this is no clone, or the plan is inconsistent.
    """
    require_clone(*(job.command[1] for job in jobs if job.command[1] != "-m"))
    if dry_run:
        for job in jobs:
            print(f"{'finished' if job.finished() else 'to do':<9} {job.name}: {shlex.join(job.command[1:])}")
        return None
    if scheduler:
        names = devices.names if devices else ()
        script = write_scripts(jobs, jobs_dir, scheduler, name=name, devices=names)
        print(f"{len(jobs)} jobs written. Start them by: bash {script}")
        return None
    return run(jobs, parallel=parallel, devices=devices)


def say_failures(report: Report, total: int) -> None:
    """Print the failures among `total` jobs to stderr, if any."""
    if report.failures:
        print(report.failures_text(), file=sys.stderr)
        count = f"{len(report.failures)} of {total} jobs are not finished"
        print(f"{count}; the same call tries them again.", file=sys.stderr)
