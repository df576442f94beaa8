"""The SUPERB suite: tasks, upstreams and seeds as a plan of `run_downstream.py` calls, and the score table at its end.

    Suite -> runs (one per row and task) -> jobs: one call each, or one per learning rate and the choice among them
          -> probed for the time they take -> run here (run_plan.py), or written as job scripts (job_scripts.py)

Rows of the table are folders, `results/<row>/<task>/result.json`; a row is an upstream, and a seed where several are asked
for. Tries of a learning-rate search are in `results/<row>/lr_search/<task>/lr<rate>/`.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from s3prl_pruned.config import UserError, apply_overrides, load_yaml
from s3prl_pruned.measure import probe
from s3prl_pruned.measure.comparison import Candidate
from s3prl_pruned.measure.learning_rates import UNSEARCHED, refuse_plain_run, try_folder
from s3prl_pruned.measure.plan import Job
from s3prl_pruned.measure.run_plan import run
from s3prl_pruned.superb import settings
from s3prl_pruned.superb.drivers import driver_of
from s3prl_pruned.superb.experiment import SETTINGS
from s3prl_pruned.superb.paths import corpus_of, read_paths
from s3prl_pruned.superb.results import RESULT_FILE, read_result
from s3prl_pruned.superb.tasks import TASKS, Task, find_task

PROTOCOLS = ("quick", "mini")
"""Folders of `downstream_runs/`: what each changes of a settings file is in its file of the same name."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What was asked for."""

    candidates: tuple[Candidate, ...]
    tasks: tuple[Task, ...]
    seeds: tuple[int, ...]
    results: Path = Path("results")
    learning_rates: tuple[float, ...] = ()
    """To be searched; empty: those of the settings."""
    protocol: str | None = None
    """One of `PROTOCOLS`; None: the settings as they are."""
    override: str = ""
    """`-o` of every call. What it says of a training is left out where nothing is trained."""
    paths: str | None = None
    """`--paths`: where the corpora lie; None: paths.yaml, where there is one."""
    numbered: bool = False
    """Whether rows carry their seed even where there is one."""
    cache_features: bool = False
    """`--cache-features` for every task that can keep them."""
    options: tuple[str, ...] = ()
    """Further options of every call."""
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """One task of one row."""

    suite: Suite
    candidate: Candidate
    seed: int
    row: str
    task: Task

    @property
    def name(self) -> str:
        return f"{self.row}/{self.task.name}"

    @property
    def folder(self) -> Path:
        return self.suite.results / self.row / self.task.name

    @property
    def rates(self) -> tuple[float, ...]:
        """To be searched."""
        return () if self.task.name in UNSEARCHED else self.suite.learning_rates

    @property
    def corpus(self) -> Path | None:
        """As `run_downstream.py` will find it; None where nothing names it."""
        given = next((value for name, value in pairwise(self.suite.options) if name == "--corpus"), None)
        return corpus_of(self.task, given, read_paths(self.suite.paths))

    @property
    def settings_file(self) -> str:
        """The benchmark's settings, or those of the embedded speech where no corpus is named."""
        embedded = f"embedded_{self.task.name}.yaml"
        return embedded if self.corpus is None and (SETTINGS / embedded).is_file() else f"{self.task.name}.yaml"

    @property
    def left_out(self) -> list[str]:
        """What `-o` says of a training, where the task has none."""
        if driver_of(self.task).trains:
            return []
        return [part for part in settings.assignments(self.suite.override) if settings.is_of_training(part)]

    def overrides(self) -> str:
        """`-o`: of the protocol, then the user's own."""
        own = [part for part in settings.assignments(self.suite.override) if part not in self.left_out]
        return ",,".join([*self._of_protocol(), *own])

    def _of_protocol(self) -> list[str]:
        if self.suite.protocol is None:
            return []
        path = SETTINGS / self.suite.protocol / self.settings_file
        if not path.is_file():
            raise UserError(
                f"--protocol {self.suite.protocol}: has no {path.name}. Name the corpus of {self.task.name} by --paths, whose "
                f"settings are {self.task.name}.yaml."
            )
        return list(_flat(load_yaml(path)))

    def config(self) -> dict[str, Any] | None:
        """The settings that will be used; None where the benchmark's are not there."""
        path = SETTINGS / self.settings_file
        if not path.is_file():
            return None
        changes = [part for part in settings.assignments(self.overrides()) if part.startswith("config.")]
        return apply_overrides(load_yaml(path), changes)

    def _can_keep_features(self) -> bool:
        config = self.config()
        return config is not None and driver_of(self.task).random_waveforms(config) is None

    def command(self, folder: Path, *overrides: str, options: Sequence[str] = ()) -> tuple[str, ...]:
        """A call that starts, goes on, or finds the run finished."""
        text = ",,".join(filter(None, [self.overrides(), *overrides]))
        override = ["-o", text] if text else []
        keep = ["--cache-features"] if self.suite.cache_features and self._can_keep_features() else []
        paths = ["--paths", self.suite.paths] if self.suite.paths else []
        return (
            sys.executable, "run_downstream.py", *self.candidate.options(self.seed), "-d", self.task.name, *options, "-a",
            "-p", str(folder), "--seed", str(self.seed), *paths, *keep, *self.suite.options, *override,
        )  # fmt: skip

    def jobs(self, seconds: float | None = None) -> list[Job]:
        """One call; or one for each learning rate, and the choice.

        Args:
            seconds: estimated for one call.
        """
        if not self.rates:
            return [self._job(self.name, self.command(self.folder), self.folder, seconds=seconds)]
        tries = [
            self._job(
                f"{self.name}/lr{rate:g}", self.command(try_folder(self.folder, rate), f"config.optimizer.lr={rate!r}"),
                try_folder(self.folder, rate), seconds=seconds,
            )
            for rate in self.rates
        ]  # fmt: skip
        rates = ",".join(f"{rate:g}" for rate in self.rates)
        command = (sys.executable, "tools/superb_suite.py", "--choose", str(self.folder), "--lr", rates)
        names = tuple(job.name for job in tries)
        return [*tries, self._job(self.name, command, self.folder, after=names, seconds=10.0)]

    def _job(self, name: str, command: tuple[str, ...], folder: Path, **fields: Any) -> Job:
        # Called also when finished: the call refuses what stands of another model, other settings or another corpus.
        return Job(
            name=name, command=command, log=folder.with_name(f"{folder.name}.log"), done=folder / RESULT_FILE, recheck=True,
            threads=self.suite.threads, **fields,
        )  # fmt: skip


def runs(suite: Suite) -> list[TaskRun]:
    """All tasks of all rows; seeds vary slowest, so that a first table is there early.

    Raises:
        UserError: rows of one name, or a folder with the other kind of run (searched, not searched).
    """
    names = [candidate.name for candidate in suite.candidates]
    for name in names:
        if names.count(name) > 1 or name != Path(name).name or name == "..":
            raise UserError(f"-u {name}: must be a folder's name, and of one upstream only. Give NAME=UPSTREAM[:CKPT].")
    found = [
        TaskRun(
            suite=suite, candidate=candidate, seed=seed, task=task,
            row=f"{candidate.name}-seed{seed}" if suite.numbered or len(suite.seeds) > 1 else candidate.name,
        )
        for seed in suite.seeds for candidate in suite.candidates for task in suite.tasks
    ]  # fmt: skip
    for task_run in found:
        path = task_run.folder / RESULT_FILE
        if task_run.rates:
            refuse_plain_run(task_run.folder)
        elif path.is_file() and read_result(path).tried_rates:
            raise UserError(f"{task_run.folder}: holds the result of a learning-rate search. Give --lr-search, or another name.")
    return found


def parse_tasks(text: str) -> tuple[Task, ...]:
    """`all`, or names separated by commas, ours or s3prl's.

    Raises:
        UserError: on an unknown one; the nearest is named.
    """
    names = TASKS if text == "all" else [name.strip() for name in text.split(",")]
    return tuple(dict.fromkeys(find_task(name) for name in names))


def probe_all(task_runs: Sequence[TaskRun]) -> dict[str, float]:
    """Estimated seconds of one call, by the run's name; those that cannot be estimated are left out.

    Each task of each upstream is probed once, whatever the number of seeds and rates.
    """
    estimates, found = {}, {}
    for task_run in task_runs:
        key = (task_run.candidate, task_run.task)
        if not probe.can_probe(task_run.config()) or (task_run.folder / RESULT_FILE).is_file():
            continue
        if key not in found:
            with tempfile.TemporaryDirectory(prefix="superb-probe-") as temporary:
                name, folder = f"probe of {task_run.name}", Path(temporary) / "run"
                command = task_run.command(folder, probe.OVERRIDE, options=("-m", "train"))
                job = Job(name=name, command=command, log=Path(temporary) / "log", threads=task_run.suite.threads)
                report = run([job])
                found[key] = probe.read_probe(folder, report.seconds[name]) if name in report.seconds else None
        if found[key]:
            estimates[task_run.name] = found[key].estimate(task_run.config(), task_run.task.name)
    return estimates


def _flat(data: dict[str, Any], prefix: str = "config") -> Iterator[str]:
    """Settings as assignments of `-o`."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}.{key}")
        else:
            text = yaml.safe_dump(value, default_flow_style=True, width=float("inf")).removesuffix("\n").removesuffix("\n...")
            yield f"{prefix}.{key}={text}"
