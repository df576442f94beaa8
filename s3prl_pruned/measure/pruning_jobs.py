"""Pruning runs and the tasks of what comes of them, as jobs of a plan: what sweeps and experiments are made of."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path

from s3prl_pruned.export.formats import CONFIG
from s3prl_pruned.measure.plan import Job
from s3prl_pruned.measure.suite import Suite, runs


def pruning_job(
    folder: Path,
    *,
    name: str | None = None,
    recipe: str,
    seed: int,
    upstream: str = "wavlm_pruned_distill",
    override: str = "",
    options: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
    threads: int = 1,
) -> Job:
    """One call of `run_pretrain.py`, whose export stands in `folder / "export"`.

    Args:
        folder: of the run; its log stands beside it.
        name: of the job; None is the folder's.
        options: further ones, such as `--corpus`.
        after: names of jobs that it waits for.
    """
    command = (
        sys.executable, "run_pretrain.py", "-u", upstream, "--recipe", recipe, "-a", "-p", str(folder), "--seed", str(seed),
        *options, "-o", override,
    )  # fmt: skip
    # Called also when finished: the call refuses what stands of another configuration.
    return Job(
        name=name or folder.name, command=command, log=folder.with_name(f"{folder.name}.log"), done=folder / "export" / CONFIG,
        recheck=True, after=after, threads=threads,
    )  # fmt: skip


def task_jobs(suite: Suite, pruning: Mapping[Path, Job]) -> list[Job]:
    """The suite's runs; one whose checkpoint is `<folder>/export` of a pruning run waits for that run.

    Args:
        pruning: jobs by their folders.
    """
    jobs = []
    for task_run in runs(suite):
        checkpoint = (task_run.candidate.checkpoint or "").replace("{seed}", str(task_run.seed))
        before = pruning.get(Path(checkpoint).parent)
        for job in task_run.jobs():
            jobs.append(dataclasses.replace(job, after=(*job.after, before.name)) if before else job)
    return jobs
