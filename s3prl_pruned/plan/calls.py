"""The calls in plans: a call of `run_pretrain.py` as a job, and a call of `run_downstream.py`."""

from collections.abc import Sequence
from pathlib import Path

from s3prl_pruned.formats.folder import CONFIG
from s3prl_pruned.own_commands import call
from s3prl_pruned.plan.jobs import Job
from s3prl_pruned.plan.models import ComparedModel


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
    """One call of `run_pretrain.py`, which writes its export to `folder / "export"`.

    Args:
        folder: the run's folder; the log is written beside it.
        name: the job's name; None: the folder's name.
        recipe: `--recipe`.
        seed: `--seed`.
        upstream: `-u`.
        override: `-o`.
        options: further options, such as `--corpus`.
        after: names of the jobs that it waits for.
        threads: CPU threads.
    """
    command = (
        *call("pretrain"),
        "-u",
        upstream,
        "--recipe",
        recipe,
        "-a",
        "-p",
        str(folder),
        "--seed",
        str(seed),
        *options,
        "-o",
        override,
    )
    # Called even if finished: the call refuses a folder of another configuration.
    return Job(
        name=name or folder.name,
        command=command,
        log=folder.with_name(f"{folder.name}.log"),
        done=folder / "export" / CONFIG,
        recheck=True,
        after=after,
        threads=threads,
    )


def downstream_command(
    model: ComparedModel, task: str, folder: Path, *, seed: int, options: Sequence[str] = (), override: str = ""
) -> tuple[str, ...]:
    """One call of `run_downstream.py`, which starts, resumes, or finds the run finished.

    Args:
        model: the model whose features the task is trained on.
        task: `-d`.
        folder: the run's folder.
        seed: `--seed`.
        options: further options, such as `--paths`.
        override: `-o`.
    """
    return (
        *call("downstream"),
        *model.options(seed),
        "-d",
        task,
        "-a",
        "-p",
        str(folder),
        "--seed",
        str(seed),
        *options,
        *(["-o", override] if override else []),
    )
