"""What `tools/superb_suite.py` does: plan, estimate times, print, then run and score, or write job scripts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from s3prl_pruned.commands import score as score_command
from s3prl_pruned.own_commands import call
from s3prl_pruned.plan.carry_out import carry_out, require_clone, say_failures
from s3prl_pruned.plan.devices import Devices
from s3prl_pruned.plan.job_scripts import Scheduler
from s3prl_pruned.plan.jobs import Job, duration, remaining_seconds
from s3prl_pruned.plan.learning_rates import UNSEARCHED
from s3prl_pruned.plan.probe import KEPT, keep_estimates, kept_estimates, probe_all
from s3prl_pruned.plan.suite import Suite, TaskRun, runs, settled
from s3prl_pruned.superb.results.result import RESULT_FILE, read_result
from s3prl_pruned.superb.tasks.settings import get
from s3prl_pruned.tables import Column, Table


def run_suite(
    suite: Suite,
    *,
    parallel: int,
    devices: Devices | None = None,
    probe: bool,
    dry_run: bool,
    scheduler: Scheduler | None,
    jobs_dir: Path,
) -> int:
    """Run the suite, or do what its options ask for instead.

    Args:
        suite: tasks, models and seeds.
        parallel: number of parallel jobs.
        devices: GPUs to distribute them over.
        probe: run a few steps of each task first, to estimate its time.
        dry_run: stop after printing the plan.
        scheduler: write scripts for it into `jobs_dir` instead of running.
        jobs_dir: new folder of the scripts.

    Returns:
        The exit status, as `plan.jobs.Report.exit_code`.

    Raises:
        UserError: the plan cannot be made, or results cannot be scored.
        Interrupted: by a signal.
    """
    require_clone(call("downstream")[1])
    suite = settled(suite)
    task_runs = runs(suite)
    if probe:
        keep_estimates(suite.results / KEPT, task_runs, probe_all(task_runs))
    estimates = kept_estimates(suite.results / KEPT, task_runs)
    note = f", {suite.protocol} protocol: not comparable with SUPERB's numbers" if suite.protocol else ""
    print(f"{len(task_runs)} tasks into {suite.results}{note}")
    at_a_time = (devices or Devices()).at_a_time(parallel)
    print(plan_text(task_runs, estimates, parallel=at_a_time), flush=True)
    jobs = [job for task_run in task_runs for job in task_run.jobs(estimates.get(task_run.name))]
    if dry_run:
        return 0
    planned = [*jobs, _score(suite, jobs)] if scheduler else jobs
    report = carry_out(
        planned, name="superb", parallel=parallel, devices=devices, dry_run=False, scheduler=scheduler,
        jobs_dir=jobs_dir,
    )  # fmt: skip
    if report is None:
        if unknown := [task_run.name for task_run in task_runs if task_run.name not in estimates]:
            print(
                f"The scripts have no time limit for {', '.join(unknown)}, since the time is unknown. To estimate it, "
                "run this command with --dry-run instead of --scheduler on the machine that will run the tasks."
            )
        return 0
    if any((task_run.folder / RESULT_FILE).is_file() for task_run in task_runs):
        score_command.main([str(suite.results)])
        if text := closing_text(task_runs):
            print(f"\n{text}", flush=True)
    say_failures(report, len(jobs))
    return report.exit_code


def plan_text(task_runs: Sequence[TaskRun], estimates: dict[str, float], *, parallel: int) -> str:
    """The plan as a table: steps, learning rates, estimated time and state of each task.

    Args:
        task_runs: the suite's.
        estimates: seconds of one call by the run's name; empty if nothing was measured.
        parallel: number of parallel jobs.
    """
    rows, left = [], []
    for task_run in task_runs:
        jobs = task_run.jobs(estimates.get(task_run.name))
        left += [job for job in jobs if not job.finished()]
        rows.append(
            {
                "name": task_run.name,
                "steps": get(task_run.config() or {}, "runner.total_steps"),
                "rates": f"{len(task_run.rates)} x {task_run.try_steps}" if task_run.rates else None,
                "time": _time_of(task_run, estimates.get(task_run.name)),
                "state": _state_of(task_run, jobs),
            }
        )
    columns = [
        Column("name", ""),
        Column("steps", align="right"),
        Column("rates", "rates x steps", align="right"),
        Column("time", "estimated time"),
        Column("state"),
    ]
    lines = [Table(columns, rows).text()]
    if any(task_run.rates for task_run in task_runs):
        lines.append(_cost_of_search(task_runs))
    known = [(job, 0.0) for job in left if job.seconds]
    seconds = remaining_seconds(known, [], parallel=parallel)
    if estimates and seconds is not None:
        partly = "" if len(known) == len(left) else ", without the tasks of unknown time"
        lines.append(f"estimated total: {duration(seconds)} with {parallel} parallel jobs{partly}")
    return "\n".join(lines)


def _cost_of_search(task_runs: Sequence[TaskRun]) -> str:
    """The cost of the learning-rate search."""
    searched = [task_run for task_run in task_runs if task_run.rates]
    tries = sum(len(task_run.rates) for task_run in searched)
    short = sum(len(task_run.rates) * task_run.try_steps for task_run in searched)
    whole = sum(get(task_run.config() or {}, "runner.total_steps") for task_run in searched)
    return (
        f"learning-rate search: {tries} short trainings, {short} steps in total, in addition to {whole} steps with the "
        f"chosen rates (+{100 * short / whole:.0f} %); the test set is evaluated with the chosen rates only"
    )


def _time_of(task_run: TaskRun, estimate: float | None) -> str | None:
    """Of all its calls; a part that the estimate does not include is named."""
    if not estimate:
        return None
    unseen = "" if get(task_run.config() or {}, "runner.eval_dataloaders") else " + evaluation"  # of its checkpoints
    return duration(sum(job.seconds or 0.0 for job in task_run.jobs(estimate))) + unseen


def _state_of(task_run: TaskRun, jobs: Sequence[Job]) -> str:
    """What is finished, missing or ignored."""
    finished = sum(job.finished() for job in jobs)
    state = "finished" if finished == len(jobs) else f"{finished} of {len(jobs)} finished" if finished else ""
    if task_run.corpus is None and task_run.settings_file == f"{task_run.task.name}.yaml":
        state = state or "no corpus"
    left_out = f"no training, so ignored: {', '.join(task_run.left_out)}" if task_run.left_out else ""
    searched = task_run.suite.own_grids or task_run.suite.learning_rates
    unsearched = UNSEARCHED.get(task_run.task.name) if searched else None
    return "; ".join(filter(None, [state, left_out, unsearched and f"no learning-rate search: {unsearched}"]))


def closing_text(task_runs: Sequence[TaskRun]) -> str:
    """What the table does not contain: the chosen learning rates, and mean and standard deviation over seeds."""
    lines: list[str] = []
    values: dict[tuple[str, str, str], list[float]] = {}
    for task_run in task_runs:
        path = task_run.folder / RESULT_FILE
        if not path.is_file():
            continue
        result = read_result(path)
        tries = result.tried_rates or []
        for tried in tries:
            if tried.chosen and tried.criterion:
                best = f"best of {len(tries)}, dev {tried.criterion.name} {tried.criterion.percent:.2f} %"
                lines.append(f"{task_run.name}: learning rate {tried.learning_rate:g} ({best})")
        for value in result.metrics:
            values.setdefault((task_run.model.name, task_run.task.name, value.name), []).append(value.percent)
    for (model, task, metric), numbers in values.items():
        if len(task_runs[0].suite.seeds) > 1:
            spread = f" +- {np.std(numbers, ddof=1):.2f}" if len(numbers) > 1 else ""
            lines.append(f"{model} {task} {metric}: {np.mean(numbers):.2f}{spread} % over {len(numbers)} seeds")
    return "\n".join(lines)


def _score(suite: Suite, jobs: list[Job]) -> Job:
    """The score table, after all other jobs, also if some failed."""
    return Job(
        name="score",
        command=(*call("score"), str(suite.results)),
        log=suite.results / "superb_score.log",
        after=tuple(job.name for job in jobs),
        even_after_failure=True,
        uses_device=False,
    )
