"""Experiments: the rows of a table or figure as one plan, from pruning runs to SUPERB tasks.

    YAML -> Experiment -> jobs: run_pretrain.py per row and seed, run_downstream.py per row, seed and task
         -> run here or written as job scripts -> collect.py and table.py make JSON and Markdown of the results

Task seed N uses pruning run N. All files are in one folder, `pretrain/<row>-seed<N>/export` and
`results/<row>-seed<N>/<task>/result.json`; experiments in the same folder share rows with the same name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from s3prl_pruned.config import UserError, from_dict, load_yaml
from s3prl_pruned.plan.calls import pruning_job
from s3prl_pruned.plan.jobs import Job
from s3prl_pruned.plan.models import ComparedModel
from s3prl_pruned.plan.suite import PROTOCOLS, Suite, parse_tasks, task_jobs
from s3prl_pruned.superb.running.make_run import SETTINGS

EXPERIMENTS = SETTINGS / "experiments"


Stage: TypeAlias = tuple[str, Path, str]
"""Recipe, folder of runs, and `-o` of a pruning run."""


@dataclass(kw_only=True)
class ExperimentRow:
    """One upstream: of s3prl's hub, or pruned for this experiment."""

    name: str
    upstream: str | None = None
    """A name on s3prl's hub, such as `fbank`; or set the fields below."""
    recipe: str | None = None
    """`--recipe` of the pruning runs."""
    override: str = ""
    """`-o` of the pruning runs."""
    second_stage: str | None = None
    """`--recipe` of a second run that starts from the first run's export."""

    def validate(self) -> None:
        """Raise UserError where the settings do not fit together."""
        if (self.upstream is None) == (self.recipe is None):
            raise UserError(
                f"row {self.name!r}: must set either `upstream` or `recipe`, but they are {self.upstream} and "
                f"{self.recipe}."
            )
        if self.upstream is not None and (self.override or self.second_stage):
            raise UserError(
                f"row {self.name!r}: `override` and `second_stage` are for pruning runs, but `upstream` is "
                f"{self.upstream}."
            )


@dataclass(kw_only=True)
class Experiment:
    """The content of `downstream_runs/experiments/*.yaml`."""

    title: str
    claim: str
    """The paper's claim, in a sentence."""
    rows: list[ExperimentRow]
    low: str = "fbank"
    """The row that is 0 on the mini-score."""
    high: str = "teacher"
    """The row that is 1000 on the mini-score."""
    tasks: list[str]
    """Short names of the tasks."""
    protocol: str | None = "mini"
    """The tasks' protocol, as in `tools/superb_suite.py --protocol`; null: the benchmark's settings."""
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    steps: int
    """Optimiser steps of each pruning run, all its stages together."""
    override: str = ""
    """`-o` of all pruning runs, before that of the row."""
    cache_features: bool = True
    """For the tasks, as in `tools/superb_suite.py --cache-features`: about 1.2 GB per model of the embedded teacher's
    shape for MINI-SUPERB's PR, SID, SV and QbE; never removed automatically."""
    second_stage_share: float = 1 / 3
    """Share of the steps for the second stage, if a row has one (DPHuBERT: 25k of 75k)."""

    def validate(self) -> None:
        """Raise UserError where the settings do not fit together."""
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names) or not {self.low, self.high} <= set(names):
            raise UserError(
                f"rows must differ in name and have {self.low!r} and {self.high!r} among them, but are {names}."
            )
        if not self.tasks or not self.seeds or self.steps < 1:
            raise UserError(
                f"`tasks`, `seeds` and `steps` must not be empty, but are {self.tasks}, {self.seeds}, {self.steps}."
            )
        if self.protocol not in (None, *PROTOCOLS):
            raise UserError(f"`protocol` must be null or one of {list(PROTOCOLS)}, but is {self.protocol!r}.")
        if not 0 < self.second_stage_share < 1:
            raise UserError(f"`second_stage_share` must be in (0, 1), but is {self.second_stage_share}.")


def load_experiment(name: str) -> Experiment:
    """Load an experiment by its name, or from a file.

    Raises:
        UserError: if there is no such experiment, or its settings are invalid.
    """
    path = Path(name) if Path(name).is_file() else EXPERIMENTS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))
        raise UserError(f"{name}: no such experiment. Known: {known}, or a file.")
    return from_dict(Experiment, load_yaml(path), str(path))


@dataclass(frozen=True, kw_only=True)
class Planned:
    """An experiment in a folder."""

    experiment: Experiment
    folder: Path
    paths: str | None = None
    """The file with the corpora's folders, as in `tools/superb_suite.py --paths`."""

    def export(self, row: ExperimentRow, seed: int | str) -> Path:
        """The export of a pruned row; with the seed `{seed}`, the pattern for all seeds."""
        return self.stages(row)[-1][1] / f"{row.name}-seed{seed}" / "export"

    def stages(self, row: ExperimentRow) -> list[Stage]:
        """The pruning runs of a row, in order."""
        return stages_of(
            row,
            self.folder,
            steps=self.experiment.steps,
            second_stage_share=self.experiment.second_stage_share,
            override=self.experiment.override,
        )

    def suite(self) -> Suite:
        """The tasks of all rows."""
        experiment = self.experiment
        models = [
            ComparedModel(
                row.name,
                row.upstream or "wavlm_pruned_local",
                None if row.upstream else str(self.export(row, "{seed}")),
            )
            for row in experiment.rows
        ]
        return Suite(
            models=tuple(models), tasks=parse_tasks(",".join(experiment.tasks)), seeds=tuple(experiment.seeds),
            results=self.folder / "results", protocol=experiment.protocol, paths=self.paths,
            cache_features=experiment.cache_features, numbered=True,
        )  # fmt: skip

    def jobs(self) -> list[Job]:
        """Seed by seed: pruning, then the pruned models' tasks; the tasks of FBANK and teacher wait for nothing."""
        seeds = self.experiment.seeds
        pruning = {
            seed: [job for row in self.experiment.rows if row.recipe for job in self._pruning(row, seed)]
            for seed in seeds
        }
        tasks = task_jobs(self.suite(), {job.done.parents[1]: job for of_seed in pruning.values() for job in of_seed})
        each = len(tasks) // len(seeds)  # their seeds vary slowest
        return [job for i, seed in enumerate(seeds) for job in (*pruning[seed], *tasks[i * each : (i + 1) * each])]

    def _pruning(self, row: ExperimentRow, seed: int) -> list[Job]:
        return pruning_jobs(f"{row.name}-seed{seed}", self.stages(row), seed)


def stages_of(
    row: ExperimentRow, folder: Path, *, steps: int, second_stage_share: float, override: str = ""
) -> list[Stage]:
    """The pruning runs of a row, in order.

    Args:
        row: a row with a recipe.
        folder: folder of all runs.
        steps: optimiser steps of all stages together.
        second_stage_share: share of them for the second stage, if the row has one.
        override: `-o` of all stages; that of the row is for the first one only.
    """
    assert row.recipe is not None
    second = round(steps * second_stage_share) if row.second_stage else 0

    def options(total: int, *more: str) -> str:
        return ",,".join(filter(None, [f"runner.total_steps={total}", override, *more]))

    first = (row.recipe, folder / "pretrain", options(steps - second, row.override))
    return [first, (row.second_stage, folder / "second_stage", options(second))] if second else [first]


def pruning_jobs(
    name: str,
    stages: Sequence[Stage],
    seed: int,
    *,
    upstream: str = "wavlm_pruned_distill",
    options: Sequence[str] = (),
) -> list[Job]:
    """Jobs of a row's pruning runs, each after the one before it.

    Args:
        name: name of the runs.
        stages: result of `stages_of`.
        seed: `--seed`.
        upstream: `-u`.
        options: further options of all runs, such as `--corpus`.
    """
    jobs: list[Job] = []
    for recipe, folder, override in stages:
        student = ("--student", str(jobs[-1].done.parent)) if jobs else ()
        jobs.append(
            pruning_job(
                folder / name,
                name=f"{folder.name}/{name}",
                recipe=recipe,
                seed=seed,
                upstream=upstream,
                override=override,
                options=(*options, *student),
                after=(jobs[-1].name,) if jobs else (),
            )
        )
    return jobs
