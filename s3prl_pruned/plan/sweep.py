"""Sweeps: recipes at several rates, as a plan of `run_pretrain.py` calls and of the tasks that tell what comes of them.

    Sweep -> jobs: a pruning run per recipe, rate and seed; its tasks after it (suite.py) -> run here, or job scripts

A run stands in `<folder>/<recipe>-<rate>[-seed<N>]/`, its results in `<folder>/results/`; `tools/tradeoff.py` joins
them.
"""

from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.plan.calls import pruning_job
from s3prl_pruned.plan.jobs import Job
from s3prl_pruned.plan.models import ComparedModel
from s3prl_pruned.plan.suite import Suite, task_jobs
from s3prl_pruned.superb.catalogue import Task


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What was asked for."""

    recipes: dict[str, tuple[float, ...]]
    """`--recipe` -> the rates that it is run at (`sparsity.target.share`)."""
    upstream: str = "wavlm_pruned_distill"
    """`-u` of the pruning runs."""
    seeds: tuple[int, ...] = (1337,)
    folder: Path = Path("result/sweep")
    override: str = ""
    """`-o` of every pruning run, before the rate."""
    options: tuple[str, ...] = ()
    """Further options of every pruning run, such as `--corpus`."""
    tasks: tuple[Task, ...] = ()
    """Of every pruned model, and of those in `beside`."""
    beside: tuple[ComparedModel, ...] = ()
    """Upstreams that are not pruned here, such as FBANK and the teacher."""
    protocol: str | None = None
    """Of the tasks, as `tools/superb_suite.py --protocol`."""
    task_override: str = ""
    """`-o` of every task."""
    paths: str | None = None
    """Of the tasks: where the corpora lie."""
    cache_features: bool = False
    """Of the tasks, as `tools/superb_suite.py --cache-features`."""
    threads: int = 1

    @property
    def results(self) -> Path:
        """Of the tasks."""
        return self.folder / "results"

    def run_folder(self, recipe: str, rate: float, seed: int | str) -> Path:
        """Of one pruning run; `{seed}` as seed gives the pattern of all seeds."""
        return self.folder / (f"{Path(recipe).name}-{rate:g}" + f"-seed{seed}" * (len(self.seeds) > 1))

    def jobs(self) -> list[Job]:
        """The pruning runs, each rate of a recipe after the other, and the tasks, which wait for their model alone.

        Raises:
            UserError: two runs would share a folder, or a rate is none.
        """
        pruning = {
            self.run_folder(recipe, rate, seed): self._pruning(recipe, rate, seed)
            for seed in self.seeds for recipe, rates in self.recipes.items() for rate in rates
        }  # fmt: skip
        wanted = len(self.seeds) * sum(len(rates) for rates in self.recipes.values())
        if not pruning or len(pruning) < wanted:
            raise UserError(
                f"a sweep must have rates, and no rate of a recipe twice, but has {self.recipes} with the seeds "
                f"{list(self.seeds)}."
            )
        return [*pruning.values(), *(self._tasks(pruning) if self.tasks else [])]

    def _pruning(self, recipe: str, rate: float, seed: int) -> Job:
        if not 0 <= rate < 1:
            raise UserError(f"a rate must be in [0, 1), but {recipe} has {rate:g}.")
        override = ",,".join(filter(None, [self.override, f"sparsity.target.share={rate!r}"]))
        return pruning_job(
            self.run_folder(recipe, rate, seed), recipe=recipe, seed=seed, upstream=self.upstream, override=override,
            options=self.options, threads=self.threads,
        )  # fmt: skip

    def _tasks(self, pruning: dict[Path, Job]) -> list[Job]:
        upstream = self.upstream.removesuffix("_distill") + "_local"
        models = [
            ComparedModel(
                f"{Path(recipe).name}-{rate:g}", upstream, str(self.run_folder(recipe, rate, "{seed}") / "export")
            )
            for recipe, rates in self.recipes.items()
            for rate in rates
        ]
        suite = Suite(
            models=(*self.beside, *models),
            tasks=self.tasks,
            seeds=self.seeds,
            results=self.results,
            protocol=self.protocol,
            override=self.task_override,
            paths=self.paths,
            cache_features=self.cache_features,
            threads=self.threads,
        )
        return task_jobs(suite, pruning)


def parse_recipes(texts: list[str], targets: tuple[float, ...]) -> dict[str, tuple[float, ...]]:
    """`RECIPE[=RATE,RATE]`, each with its own rates or with all of `targets`.

    Raises:
        UserError: a recipe is named twice or has no rate.
    """
    found: dict[str, tuple[float, ...]] = {}
    for text in texts:
        recipe, _, rates = text.partition("=")
        if recipe in found:
            raise UserError(f"--recipe {recipe}: is given twice. Give all its rates at once: {recipe}=RATE,RATE.")
        found[recipe] = parse_rates(rates) if rates else targets
        if not found[recipe]:
            raise UserError(f"--recipe {recipe}: has no rate. Give --target RATE,RATE for all, or {recipe}=RATE,RATE.")
    return found


def parse_rates(text: str) -> tuple[float, ...]:
    """`0.5,0.6`.

    Raises:
        UserError: something in it is no number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"rates must be numbers with commas between them, such as 0.5,0.6, but are {text!r}.") from None
