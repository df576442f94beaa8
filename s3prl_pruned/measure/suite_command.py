"""What `tools/superb_suite.py` does: plan, probe, show, then run and score, or write job scripts."""

import sys
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.measure.job_scripts import Scheduler, write_scripts
from s3prl_pruned.measure.plan import Job
from s3prl_pruned.measure.run_plan import run
from s3prl_pruned.measure.suite import Suite, closing_text, plan_text, probe_all, runs
from s3prl_pruned.superb import score_command
from s3prl_pruned.superb.results import RESULT_FILE


def main(suite: Suite, *, parallel: int, probe: bool, dry_run: bool, scheduler: Scheduler | None, jobs_dir: Path) -> int:
    """Do what was asked for.

    Args:
        parallel: jobs at a time.
        probe: run a few steps of each task first, to estimate times.
        dry_run: end after the plan.
        scheduler: write scripts for it into `jobs_dir` instead of running.

    Returns:
        The exit status, as `plan.Report.exit_code`.

    Raises:
        UserError: the plan cannot be made, or results cannot be scored.
        Interrupted: by a signal.
    """
    if not Path("run_downstream.py").is_file():
        raise UserError(f"{Path.cwd()}: must be the root of the clone, but has no run_downstream.py. Change into the clone.")
    task_runs = runs(suite)
    estimates = probe_all(task_runs) if probe else {}
    note = ", quick protocol: not comparable with SUPERB's numbers" if suite.quick else ""
    print(f"{len(task_runs)} tasks into {suite.results}{note}")
    print(plan_text(task_runs, estimates, parallel=parallel), flush=True)
    jobs = [job for task_run in task_runs for job in task_run.jobs(estimates.get(task_run.name))]
    if dry_run:
        return 0
    if scheduler:
        script = write_scripts([*jobs, _score(suite, jobs)], jobs_dir, scheduler, name="superb")
        print(f"{len(jobs) + 1} jobs written. Start them by: bash {script}")
        return 0
    report = run(jobs, parallel=parallel)
    if any((task_run.folder / RESULT_FILE).is_file() for task_run in task_runs):
        score_command.main([str(suite.results)])
        if text := closing_text(task_runs):
            print(f"\n{text}", flush=True)
    if report.failures:
        print(report.failures_text(), file=sys.stderr)
        print(f"{len(report.failures)} of {len(jobs)} jobs are not finished; the same call tries them again.", file=sys.stderr)
    return report.exit_code


def _score(suite: Suite, jobs: list[Job]) -> Job:
    """The table, after all others, whatever came of them."""
    return Job(
        name="score",
        command=(sys.executable, "tools/superb_score.py", str(suite.results)),
        log=suite.results / "superb_score.log",
        after=tuple(job.name for job in jobs),
        even_after_failure=True,
    )
