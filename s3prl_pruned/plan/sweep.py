"""Sweeps: recipes at several rates, as a plan of `run_pretrain.py` calls and of the tasks that evaluate them.

    Sweep -> jobs: a pruning run per recipe, rate and seed; its tasks after it (suite.py) -> run here, or job scripts

A run is in `<folder>/<recipe>-<rate>[-seed<N>]/`, its results in `<folder>/results/`; `tools/tradeoff.py` joins them.
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
    """The request of the command line."""

    recipes: dict[str, tuple[float, ...]]
    """`--recipe` -> its rates (`sparsity.target.share`)."""
    upstream: str = "wavlm_pruned_distill"
    """`-u` of the pruning runs."""
    seeds: tuple[int, ...] = (1337,)
    folder: Path = Path("result/sweep")
    override: str = ""
    """`-o` of every pruning run, before the rate."""
    options: tuple[str, ...] = ()
    """Further options of every pruning run, such as `--corpus`."""
    tasks: tuple[Task, ...] = ()
    """Tasks of every pruned model, and of those in `beside`."""
    beside: tuple[ComparedModel, ...] = ()
    """Upstreams that are not pruned here, such as FBANK and the teacher."""
    protocol: str | None = None
    """The tasks' protocol, as in `tools/superb_suite.py --protocol`."""
    task_override: str = ""
    """`-o` of every task."""
    paths: str | None = None
    """The tasks' `--paths`: the file with the corpora's folders."""
    cache_features: bool = False
    """For the tasks, as in `tools/superb_suite.py --cache-features`."""
    threads: int = 1

    @property
    def results(self) -> Path:
        """The folder of the tasks' results."""
        return self.folder / "results"

    def run_folder(self, recipe: str, rate: float, seed: int | str) -> Path:
        """The folder of a pruning run; with the seed `{seed}`, the pattern for all seeds."""
        return self.folder / (f"{Path(recipe).name}-{rate:g}" + f"-seed{seed}" * (len(self.seeds) > 1))

    def jobs(self) -> list[Job]:
        """The pruning runs, each recipe's rates in order, and the tasks, each of which waits only for its model.

        Raises:
            UserError: if two runs would share a folder, or a rate is invalid.
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
    """Parse `RECIPE[=RATE,RATE]`, each with its own rates or with all of `targets`.

    Raises:
        UserError: if a recipe is named twice or has no rate.
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
    """Parse rates such as `0.5,0.6`.

    Raises:
        UserError: if a part is no number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"rates must be numbers with commas between them, such as 0.5,0.6, but are {text!r}.") from None
