"""The SUPERB suite: tasks, upstreams and seeds as a plan of `run_downstream.py` calls, then the score table.

    Suite -> runs (one per row and task) -> jobs: one call each, or also a short one per learning rate before it
          -> probed for the time they take (probe.py) -> run here (run.py), or written as job scripts (job_scripts.py)

Rows of the table are folders, `results/<row>/<task>/result.json`; a row is an upstream, or an upstream and a seed if
there are several seeds. Tries of a learning-rate search are in `results/<row>/lr_search/<task>/`.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from s3prl_pruned.config import UserError, apply_overrides, load_yaml
from s3prl_pruned.own_commands import call, option_of
from s3prl_pruned.plan.calls import downstream_command
from s3prl_pruned.plan.jobs import Job
from s3prl_pruned.plan.learning_rates import (
    RATE,
    SHARE,
    UNSEARCHED,
    grid,
    is_searched,
    rate_name,
    refuse_plain_run,
    short_steps,
    try_folder,
)
from s3prl_pruned.plan.models import ComparedModel
from s3prl_pruned.superb.catalogue import TASKS, Task, find_task
from s3prl_pruned.superb.results.result import RESULT_FILE
from s3prl_pruned.superb.results.trained import TRAINED_FILE
from s3prl_pruned.superb.running.make_run import SETTINGS
from s3prl_pruned.superb.tasks import settings
from s3prl_pruned.superb.tasks.drivers import driver_of
from s3prl_pruned.superb.tasks.paths import corpus_of, read_paths

PROTOCOLS = ("quick", "mini")
"""Folders of `downstream_runs/`: each holds changes to a settings file, in a file of the same name."""

SEARCHING_PROCESSES = 15
"""Cores that a query-by-example job requests from a scheduler besides its threads; it searches on all its cores."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The request of the command line."""

    models: tuple[ComparedModel, ...]
    tasks: tuple[Task, ...]
    seeds: tuple[int, ...]
    results: Path = Path("results")
    learning_rates: tuple[float, ...] = ()
    """Rates to search in every task; empty: the settings' rates."""
    rates_of_tasks: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Rates to search in the tasks of these names instead."""
    own_grids: bool = False
    """Whether each of the other tasks is searched around the rate of its settings (`learning_rates.grid`)."""
    search_share: float = SHARE
    """Share of a task's steps for which a rate is tried."""
    protocol: str | None = None
    """One of `PROTOCOLS`; None: the settings as they are."""
    override: str = ""
    """`-o` of every call. Its assignments for training are left out where nothing is trained."""
    paths: str | None = None
    """`--paths`: the file with the corpora's folders; None: paths.yaml, if it exists."""
    numbered: bool = False
    """Whether rows are named by seed even if there is only one."""
    cache_features: bool = False
    """`--cache-features` for every task that can cache them."""
    options: tuple[str, ...] = ()
    """Further options of every call."""
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """One task of one row."""

    suite: Suite
    model: ComparedModel
    seed: int
    row: str
    task: Task

    @property
    def name(self) -> str:
        """The job's name."""
        return f"{self.row}/{self.task.name}"

    @property
    def folder(self) -> Path:
        """The folder of the result."""
        return self.suite.results / self.row / self.task.name

    @property
    def rates(self) -> tuple[float, ...]:
        """The rates to search."""
        if self.task.name in UNSEARCHED:
            return ()
        found = self.suite.rates_of_tasks.get(self.task.name, self.suite.learning_rates)
        return found if found or not self.suite.own_grids else grid(self._searched_config()["optimizer"]["lr"])

    @property
    def try_steps(self) -> int:
        """Steps for which each of `rates` is tried."""
        return short_steps(self._searched_config(), self.suite.search_share)

    def _searched_config(self) -> dict[str, Any]:
        config = self.config()
        if config is None:
            raise UserError(f"--lr-search: {self.task.name} has no settings here whose steps could be shortened.")
        return config

    @property
    def corpus(self) -> Path | None:
        """The corpus as `run_downstream.py` will find it; None if it is not named anywhere."""
        return corpus_of(self.task, option_of(self.suite.options, "--corpus"), read_paths(self.suite.paths))

    @property
    def settings_file(self) -> str:
        """The benchmark's settings, or those of the embedded speech if no corpus is named."""
        embedded = f"embedded_{self.task.name}.yaml"
        return embedded if self.corpus is None and (SETTINGS / embedded).is_file() else f"{self.task.name}.yaml"

    @property
    def left_out(self) -> list[str]:
        """The assignments of `-o` for training, if the task has no training."""
        if driver_of(self.task).trains:
            return []
        return [part for part in settings.assignments(self.suite.override) if settings.is_of_training(part)]

    def overrides(self) -> str:
        """`-o`: the protocol's assignments, then the user's own."""
        own = [part for part in settings.assignments(self.suite.override) if part not in self.left_out]
        return ",,".join([*self._of_protocol(), *own])

    def _of_protocol(self) -> list[str]:
        if self.suite.protocol is None:
            return []
        path = SETTINGS / self.suite.protocol / self.settings_file
        if not path.is_file():
            raise UserError(
                f"--protocol {self.suite.protocol}: has no {path.name}. Name the corpus of {self.task.name} by "
                f"--paths, whose settings are {self.task.name}.yaml."
            )
        return list(_flat(load_yaml(path)))

    def config(self) -> dict[str, Any] | None:
        """The settings that will be used; None if the benchmark's are missing."""
        path = SETTINGS / self.settings_file
        if not path.is_file():
            return None
        changes = [part for part in settings.assignments(self.overrides()) if part.startswith("config.")]
        return apply_overrides(load_yaml(path), changes)

    @property
    def workers(self) -> int:
        """Processes that a call starts to read data, or to search for queries (`qbe`)."""
        expert = (self.config() or {}).get("downstream_expert", {})
        found = [expert.get(section, {}).get("num_workers", 0) for section in ("datarc", "corpus", "loaderrc")]
        return max(*found, SEARCHING_PROCESSES if self.task.name == "qbe" else 0)

    def _can_keep_features(self) -> bool:
        config = self.config()
        return config is not None and driver_of(self.task).random_waveforms(config) is None

    def command(self, folder: Path, *overrides: str, options: Sequence[str] = ()) -> tuple[str, ...]:
        """The call of `run_downstream.py` for this task.

        Args:
            folder: the run's folder.
            overrides: further assignments of `-o`.
            options: further options.
        """
        override = ",,".join(filter(None, [self.overrides(), *overrides]))
        paths = ["--paths", self.suite.paths] if self.suite.paths else []
        keep = ["--cache-features"] if self.suite.cache_features and self._can_keep_features() else []
        return downstream_command(
            self.model, self.task.name, folder, seed=self.seed, options=(*options, *paths, *keep, *self.suite.options),
            override=override,
        )  # fmt: skip

    def jobs(self, seconds: float | None = None) -> list[Job]:
        """One call; or a short call for each learning rate, and a full one with the best.

        Args:
            seconds: estimated time of a full call.
        """
        if not self.rates:
            return [self._job(self.name, self.command(self.folder), self.folder / RESULT_FILE, seconds=seconds)]
        steps = self.try_steps
        share = steps / self._searched_config()["runner"]["total_steps"]
        tries = [self._try(rate, steps, seconds and seconds * share) for rate in self.rates]
        own = len(call("downstream"))
        words = self.command(self.folder, f"config.optimizer.lr={RATE}")[own:]
        rates = ",".join(map(repr, self.rates))
        command = (*call("suite"), "--choose", str(self.folder), "--lr", rates, "--lr-steps", str(steps), "--", *words)
        names = tuple(job.name for job in tries)
        return [*tries, self._job(self.name, command, self.folder / RESULT_FILE, after=names, seconds=seconds)]

    def _try(self, rate: float, steps: int, seconds: float | None) -> Job:
        """A short training with one rate, without evaluation on test even if the settings ask for it."""
        folder, runner = try_folder(self.folder, rate, steps), self._searched_config()["runner"]
        interval = min(steps, runner["eval_step"])
        splits = ",".join(split for split in runner["eval_dataloaders"] if split != self.task.test_split)
        shortened = (
            f"config.runner.total_steps={steps}",
            f"config.runner.eval_step={interval}",
            f"config.runner.save_step={math.gcd(steps, interval)}",
            f"config.runner.eval_dataloaders=[{splits}]",
        )
        command = self.command(folder, f"config.optimizer.lr={rate!r}", *shortened, options=("-m", "train"))
        return self._job(f"{self.name}/lr{rate_name(rate)}", command, folder / TRAINED_FILE, seconds=seconds)

    def _job(self, name: str, command: tuple[str, ...], done: Path, **fields: Any) -> Job:
        # Called even if finished: the call refuses a result of another model, other settings or another corpus.
        return Job(
            name=name,
            command=command,
            log=done.parent.with_name(f"{done.parent.name}.log"),
            done=done,
            recheck=True,
            threads=self.suite.threads,
            workers=self.workers,
            uses_device=option_of(self.suite.options, "--device") != "cpu",
            **fields,
        )


def runs(suite: Suite) -> list[TaskRun]:
    """All tasks of all rows; seeds vary slowest, so that a first table is complete early.

    Raises:
        UserError: if rows have the same name, or a folder holds the other kind of run (with or without a search).
    """
    names = [model.name for model in suite.models]
    for name in names:
        if names.count(name) > 1 or name != Path(name).name or name == "..":
            raise UserError(f"-u {name}: must be a folder's name, and of one upstream only. Give NAME=UPSTREAM[:CKPT].")
    found = [
        TaskRun(
            suite=suite, model=model, seed=seed, task=task,
            row=f"{model.name}-seed{seed}" if suite.numbered or len(suite.seeds) > 1 else model.name,
        )
        for seed in suite.seeds for model in suite.models for task in suite.tasks
    ]  # fmt: skip
    for task_run in found:
        if task_run.rates:
            refuse_plain_run(task_run.folder)
        elif task_run.task.name not in UNSEARCHED and is_searched(task_run.folder):  # earlier versions searched those
            raise UserError(
                f"{task_run.folder}: holds the result of a learning-rate search. Give --lr-search, or another name."
            )
    return found


def settled(suite: Suite, *, being_made: Collection[Path] = ()) -> Suite:
    """The suite with its models' files fixed (`ComparedModel.settled`), so that all its jobs use the same files.

    Args:
        suite: the suite, before its jobs are made.
        being_made: folders of pruning runs in the same plan.
    """
    models = tuple(model.settled(suite.seeds, being_made=being_made, options=suite.options) for model in suite.models)
    return replace(suite, models=models)


def parse_tasks(text: str) -> tuple[Task, ...]:
    """Parse `all`, or names separated by commas, ours or s3prl's.

    Raises:
        UserError: on an unknown name; the message suggests the nearest.
    """
    names = TASKS if text == "all" else [name.strip() for name in text.split(",")]
    return tuple(dict.fromkeys(find_task(name) for name in names))


def task_jobs(suite: Suite, pruning: Mapping[Path, Job]) -> list[Job]:
    """The suite's jobs; a job whose checkpoint is `<folder>/export` of a pruning run waits for that run.

    Args:
        suite: tasks and models.
        pruning: pruning jobs by their folders.
    """
    jobs = []
    for task_run in runs(settled(suite, being_made=pruning)):
        before = pruning.get(Path(task_run.model.checkpoint_of(task_run.seed) or "").parent)
        for job in task_run.jobs():
            jobs.append(replace(job, after=(*job.after, before.name)) if before else job)
    return jobs


def _flat(data: dict[str, Any], prefix: str = "config") -> Iterator[str]:
    """Settings as assignments of `-o`."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}.{key}")
        else:
            text = (
                yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
                .removesuffix("\n")
                .removesuffix("\n...")
            )
            yield f"{prefix}.{key}={text}"
