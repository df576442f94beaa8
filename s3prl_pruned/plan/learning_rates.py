"""The benchmark's learning-rate search: which rates, by what to choose, and a result that says what was tried."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import TASKS, Task, Value, find_task
from s3prl_pruned.superb.results.result import RESULT_FILE, Result, TriedRate, read_result, write_result
from s3prl_pruned.superb.running.run_folder import move_aside

LEARNING_RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
"""Of every task and upstream: "we tune from 1.0e-1 to 1.0e-7 with log scale" (s3prl issue 498, the benchmark's author;
issue 120 speaks of five rates per task, without naming them)."""

UNSEARCHED = {"qbe": "nothing is trained"}
"""Tasks without a learning rate."""


def try_folder(target: Path, learning_rate: float) -> Path:
    """Where one rate is tried.

    Args:
        target: the task's folder, `results/<row>/<task>`.
        learning_rate: the rate.
    """
    return target.parent / "lr_search" / target.name / f"lr{learning_rate:g}"


def choose(target: Path, learning_rates: Sequence[float]) -> Result:
    """Take the best of the tried rates by the task's criterion, and write its result where the task's belongs.

    A result of an earlier choice that differs is moved aside.

    Args:
        target: the task's folder, `results/<row>/<task>`.
        learning_rates: what must have been tried. Other rates' folders beside them are recorded, not chosen from.

    Raises:
        UserError: a rate is not finished, the tries do not belong together, or the folder holds a run of its own.
    """
    task = find_task(target.name)
    refuse_plain_run(target)
    results = {rate: _read_try(target, rate) for rate in learning_rates}
    criteria = {rate: criterion(result, task) for rate, result in results.items()}
    choosable = {rate: value for rate, value in criteria.items() if value}
    if not choosable:
        raise UserError(
            f"{target.name}: no try says its checkpoint's value on dev, so that none can be chosen: with none of the "
            f"rates did it get better than at the start (see {try_folder(target, 0).parent}). Train longer, or try "
            "other rates (--lr)."
        )
    models = {(result.upstream.sha256, result.seed, result.protocol) for result in results.values()}
    if len(models) > 1:
        raise UserError(
            f"{target.name}: tries must be of one model, seed and protocol, but are of {sorted(map(str, models))} "
            f"(see {try_folder(target, 0).parent})."
        )
    better = min if _better(next(iter(choosable.values())).name) == "down" else max
    best = better(choosable, key=lambda rate: choosable[rate].percent)
    tried = [
        TriedRate(
            learning_rate=rate, folder=_relative(target, rate), criterion=criteria[rate], metrics=result.metrics,
            chosen=rate == best,
        )
        for rate, result in results.items()
    ]  # fmt: skip
    tried += [
        TriedRate(learning_rate=rate, folder=_relative(target, rate)) for rate in other_rates(target, learning_rates)
    ]
    chosen = replace(results[best], tried_rates=tried)
    path = target / RESULT_FILE
    if path.is_file():
        if read_result(path) == chosen:
            return chosen
        move_aside(path)
    target.mkdir(parents=True, exist_ok=True)
    write_result(path, chosen)
    return chosen


def criterion(result: Result, task: Task) -> Value | None:
    """What a rate is chosen by: the value on dev of the checkpoint that was evaluated, or its mean over folds.

    None where training never got better than at the start, in any fold: s3prl then writes no best checkpoint.

    Speaker verification has no value on dev in the benchmark: there it is the test metric, as its authors report the
    lowest over checkpoints.
    """
    checkpoints = [result.checkpoint] if result.checkpoint else [part.checkpoint for part in result.parts or []]
    values = [checkpoint.dev for checkpoint in checkpoints if checkpoint and checkpoint.dev]
    if task.name == "sv" and not values:
        return result.values()[task.metrics[0].name]
    if not values or len(values) < len(checkpoints):
        return None
    return Value(name=values[0].name, value=sum(value.value for value in values) / len(values), unit=values[0].unit)


def refuse_plain_run(target: Path) -> None:
    """Stop where the result of a search would stand beside a run without one.

    Raises:
        UserError: naming the way out.
    """
    if not target.is_dir() or not any(target.iterdir()):
        return
    path = target / RESULT_FILE
    if not path.is_file() or read_result(path).tried_rates is None:
        raise UserError(
            f"{target}: holds a run without a learning-rate search. Move it, or give another name (-u NAME=UPSTREAM)."
        )


def other_rates(target: Path, learning_rates: Sequence[float]) -> list[float]:
    """Rates of which there is a folder, besides those given; highest first."""
    asked = {try_folder(target, rate).name for rate in learning_rates}
    folders = [path for path in try_folder(target, 0).parent.glob("lr*") if path.is_dir() and path.name not in asked]
    found = []
    for folder in folders:
        try:
            found.append(float(folder.name.removeprefix("lr")))
        except ValueError:
            continue  # moved aside, or somebody's own
    return sorted(found, reverse=True)


def _better(name: str) -> Literal["up", "down"]:
    """Which way a criterion is better: as some task's metric of its name (diarization's is the accuracy of frames)."""
    for task in TASKS.values():
        for metric in task.metrics:
            if metric.name == name:
                return metric.better
    raise UserError(f"{name}: no task has a metric of this name, so that nothing can be chosen by it.")


def _read_try(target: Path, learning_rate: float) -> Result:
    path = try_folder(target, learning_rate) / RESULT_FILE
    if not path.is_file():
        raise UserError(f"{path.parent}: is not finished. Finish it, or leave this rate out (--lr).")
    return read_result(path)


def _relative(target: Path, learning_rate: float) -> str:
    return str(Path("..") / try_folder(target, learning_rate).relative_to(target.parent))
