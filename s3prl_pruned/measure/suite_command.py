"""What `tools/superb_suite.py` does: plan, probe, show, then run and score, or write job scripts."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from s3prl_pruned.measure.carry_out import require_clone, say_failures, write_and_say
from s3prl_pruned.measure.job_scripts import Scheduler
from s3prl_pruned.measure.plan import Job, duration, remaining_seconds
from s3prl_pruned.measure.run_plan import run
from s3prl_pruned.measure.suite import Suite, TaskRun, probe_all, runs
from s3prl_pruned.superb import score_command
from s3prl_pruned.superb.results import RESULT_FILE, read_result
from s3prl_pruned.superb.settings import get


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
    require_clone("run_downstream.py")
    task_runs = runs(suite)
    estimates = probe_all(task_runs) if probe else {}
    note = f", {suite.protocol} protocol: not comparable with SUPERB's numbers" if suite.protocol else ""
    print(f"{len(task_runs)} tasks into {suite.results}{note}")
    print(plan_text(task_runs, estimates, parallel=parallel), flush=True)
    jobs = [job for task_run in task_runs for job in task_run.jobs(estimates.get(task_run.name))]
    if dry_run:
        return 0
    if scheduler:
        write_and_say([*jobs, _score(suite, jobs)], jobs_dir, scheduler, name="superb")
        return 0
    report = run(jobs, parallel=parallel)
    if any((task_run.folder / RESULT_FILE).is_file() for task_run in task_runs):
        score_command.main([str(suite.results)])
        if text := closing_text(task_runs):
            print(f"\n{text}", flush=True)
    say_failures(report, len(jobs))
    return report.exit_code


def plan_text(task_runs: Sequence[TaskRun], estimates: dict[str, float], *, parallel: int) -> str:
    """The plan as a table: steps, learning rates, time and state of each task."""
    width = max(len(task_run.name) for task_run in task_runs) + 2
    lines = [f"{'':{width}}{'steps':>9}  {'rates':>5}  {'time, about':<20}state"]
    jobs = []
    for task_run in task_runs:
        steps = get(task_run.config() or {}, "runner.total_steps")
        calls, estimate = len(task_run.rates) or 1, estimates.get(task_run.name)
        time = duration(estimate * calls) if estimate else "-"
        if estimate and not get(task_run.config(), "runner.eval_dataloaders"):
            time += " + evaluation"  # of its checkpoints, which the probe does not see
        own = task_run.jobs(estimate)
        finished = sum(job.finished() for job in own)
        state = "finished" if finished == len(own) else f"{finished} of {len(own)} finished" if finished else ""
        if task_run.corpus is None and task_run.settings_file == f"{task_run.task.name}.yaml":
            state = state or "no corpus is named"
        if task_run.left_out:
            state += f"{'; ' if state else ''}nothing is trained, so left out: {', '.join(task_run.left_out)}"
        jobs += [job for job in own if not job.finished()]
        lines.append(f"{task_run.name:{width}}{steps or '-':>9}  {len(task_run.rates) or '-':>5}  {time:<20}{state}".rstrip())
    known = [(job, 0.0) for job in jobs if job.seconds]
    if estimates:
        partly = "" if len(known) == len(jobs) else ", without those of unknown time"
        lines.append(f"in all about {duration(remaining_seconds(known, [], parallel=parallel))}, {parallel} at a time{partly}")
    return "\n".join(lines)


def closing_text(task_runs: Sequence[TaskRun]) -> str:
    """What the table does not say: the chosen learning rates, and mean and spread over seeds."""
    lines, values = [], {}
    for task_run in task_runs:
        path = task_run.folder / RESULT_FILE
        if not path.is_file():
            continue
        result = read_result(path)
        for tried in result.tried_rates or []:
            if tried.chosen:
                by = f"{len(result.tried_rates)} tried, by {tried.criterion.name} {tried.criterion.percent:.2f} %"
                lines.append(f"{task_run.name}: learning rate {tried.learning_rate:g} of {by}")
        for value in result.metrics:
            values.setdefault((task_run.candidate.name, task_run.task.name, value.name), []).append(value.percent)
    for (candidate, task, metric), numbers in values.items():
        if len(task_runs[0].suite.seeds) > 1:
            spread = f" +- {np.std(numbers, ddof=1):.2f}" if len(numbers) > 1 else ""
            lines.append(f"{candidate} {task} {metric}: {np.mean(numbers):.2f}{spread} % over {len(numbers)} seeds")
    return "\n".join(lines)


def _score(suite: Suite, jobs: list[Job]) -> Job:
    """The table, after all others, whatever came of them."""
    return Job(
        name="score",
        command=(sys.executable, "tools/superb_score.py", str(suite.results)),
        log=suite.results / "superb_score.log",
        after=tuple(job.name for job in jobs),
        even_after_failure=True,
    )
