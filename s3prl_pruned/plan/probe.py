"""Estimate how long a task will take, from a few steps.

One short training is saved at steps 5, 10 and 15 and evaluated on the development set at the last: the times of the
three files give the seconds of a step, of an evaluation, and of the start.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3prl_pruned.plan.jobs import Job
from s3prl_pruned.plan.models import ComparedModel
from s3prl_pruned.plan.run import run
from s3prl_pruned.plan.suite import TaskRun
from s3prl_pruned.superb.catalogue import Task
from s3prl_pruned.superb.results.result import RESULT_FILE, read_json, write_json
from s3prl_pruned.superb.tasks.settings import get

STEPS = 5
OVERRIDE = ",,".join(
    f"config.runner.{setting}"
    for setting in (
        f"total_steps={3 * STEPS}", f"save_step={STEPS}", f"eval_step={3 * STEPS}", f"log_step={STEPS}", "max_keep=3"
    )
)  # fmt: skip
"""`-o` of the probe."""

KEPT = "probe.json"
"""File in the results' folder: estimated seconds and steps by the run's name."""

TRAININGS = {"er": 5}
"""Number of trainings of a task with several; the probe measures the first."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Measured seconds."""

    start: float
    """Seconds before the first step and after the last."""
    step: float
    evaluation: float
    """Seconds of an evaluation on the development set."""

    def estimate(self, config: dict[str, Any], task: str) -> float:
        """Estimated seconds of the whole task, assuming that test takes as long as dev.

        Args:
            config: the task's settings.
            task: its short name.
        """
        steps, interval = get(config, "runner.total_steps"), get(config, "runner.eval_step")
        training = self.start + steps * self.step + (steps // interval + 1) * self.evaluation
        return TRAININGS.get(task, 1) * training


def probe_all(task_runs: Sequence[TaskRun]) -> dict[str, float]:
    """Estimated seconds of one call, by the run's name; runs that cannot be estimated are left out.

    Each task of each upstream is probed once, whatever the number of seeds and rates.
    """
    estimates: dict[str, float] = {}
    found: dict[tuple[ComparedModel, Task], Probe | None] = {}
    for task_run in task_runs:
        key, config = (task_run.model, task_run.task), task_run.config()
        if config is None or get(config, "runner.total_steps") is None or (task_run.folder / RESULT_FILE).is_file():
            continue  # nothing is trained, or the run is finished
        if key not in found:
            with tempfile.TemporaryDirectory(prefix="superb-probe-") as temporary:
                name, folder = f"probe of {task_run.name}", Path(temporary) / "run"
                command = task_run.command(folder, OVERRIDE, options=("-m", "train"))
                job = Job(name=name, command=command, log=Path(temporary) / "log", threads=task_run.suite.threads)
                report = run([job])
                found[key] = read_probe(folder, report.seconds[name]) if name in report.seconds else None
        if (measured := found[key]) is not None:
            estimates[task_run.name] = measured.estimate(config, task_run.task.name)
    return estimates


def keep_estimates(path: Path, task_runs: Sequence[TaskRun], estimates: Mapping[str, float]) -> None:
    """Save a probe's estimates for another call, such as one that writes scripts on a machine without a GPU.

    Args:
        path: the file; estimates of other runs in it are kept.
        task_runs: the runs that were probed.
        estimates: as returned by `probe_all`.
    """
    kept = read_json(path) if path.is_file() else {}
    steps = {task_run.name: _steps(task_run) for task_run in task_runs}
    kept |= {name: {"seconds": seconds, "steps": steps[name]} for name, seconds in estimates.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, kept)


def kept_estimates(path: Path, task_runs: Sequence[TaskRun]) -> dict[str, float]:
    """An earlier probe's estimates of these runs, if they still have the same number of steps."""
    kept = read_json(path) if path.is_file() else {}
    found = {task_run.name: kept.get(task_run.name) for task_run in task_runs}
    steps = {task_run.name: _steps(task_run) for task_run in task_runs}
    return {name: one["seconds"] for name, one in found.items() if one and one["steps"] == steps[name]}


def _steps(task_run: TaskRun) -> int | None:
    return get(task_run.config() or {}, "runner.total_steps")


def read_probe(folder: Path, seconds: float) -> Probe | None:
    """Read a probe's files; None if it is not complete.

    Args:
        folder: the run's folder; for a task with several trainings it holds the first one's folder.
        seconds: time that the call took.
    """
    for first in sorted(folder.rglob(f"states-{STEPS}.ckpt")):
        paths = [first.with_name(f"states-{number * STEPS}.ckpt") for number in (1, 2, 3)]
        if all(path.is_file() for path in paths):
            one, two, three = (path.stat().st_mtime for path in paths)
            step = (two - one) / STEPS
            evaluation = max(three - two - STEPS * step, 0.0)
            return Probe(start=max(seconds - 3 * STEPS * step - evaluation, 0.0), step=step, evaluation=evaluation)
    return None
