"""What commands do with a plan: list it, write it as job scripts, or run it and say what failed."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.measure.job_scripts import Scheduler, write_scripts
from s3prl_pruned.measure.plan import Job, Report
from s3prl_pruned.measure.run_plan import run


def require_clone(command: str) -> None:
    """Raise UserError unless this is the root of the clone, from which jobs call its `command`."""
    if not Path(command).is_file():
        raise UserError(f"{Path.cwd()}: must be the root of the clone, but has no {command}. Change into the clone.")


def carry_out(
    jobs: Sequence[Job], *, name: str, parallel: int, dry_run: bool, scheduler: Scheduler | None, jobs_dir: Path
) -> Report | None:
    """Do with a plan what was asked for; None where nothing was run.

    Args:
        name: of the scripts' job.
        parallel: jobs at a time.
        dry_run: list the calls.
        scheduler: write scripts for it into `jobs_dir`.

    Raises:
        UserError: this is no clone, or the plan does not fit together.
    """
    require_clone("run_pretrain.py")
    if dry_run:
        print("\n".join(f"{'finished' if job.finished() else 'to do':<9} {job.name}: {shlex.join(job.command[1:])}" for job in jobs))
        return None
    if scheduler:
        write_and_say(jobs, jobs_dir, scheduler, name=name)
        return None
    return run(jobs, parallel=parallel)


def write_and_say(jobs: Sequence[Job], jobs_dir: Path, scheduler: Scheduler, *, name: str) -> None:
    """Write job scripts, and how to start them to the screen."""
    print(f"{len(jobs)} jobs written. Start them by: bash {write_scripts(jobs, jobs_dir, scheduler, name=name)}")


def say_failures(report: Report, total: int) -> None:
    """Failures of `total` jobs, on stderr; nothing where there is none."""
    if report.failures:
        print(report.failures_text(), file=sys.stderr)
        print(f"{len(report.failures)} of {total} jobs are not finished; the same call tries them again.", file=sys.stderr)
