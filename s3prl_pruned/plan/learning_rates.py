"""The search for a learning rate: short trainings to choose by, and a full training with the chosen rate.

    tries (`-m train`, a share of the steps, no test data) -> choose by the development set -> train and evaluate

`lr_search/<task>/lr<rate>-<steps>steps/` holds a try, `lr_search/<task>/choice.json` the choice, and the task's own
folder the full run, whose `result.json` lists the tries.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from s3prl_pruned.config import UserError, to_dict
from s3prl_pruned.own_commands import call
from s3prl_pruned.superb.catalogue import TASKS, Value, find_task
from s3prl_pruned.superb.results.result import RESULT_FILE, RUN_FILE, TriedRate, read_result, write_json, write_result
from s3prl_pruned.superb.results.trained import TRAINED_FILE, Choice, TrainedRun, read_choice, read_trained
from s3prl_pruned.superb.running.run_folder import move_aside

LEARNING_RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
"""The benchmark's range for every task and upstream: "we tune from 1.0e-1 to 1.0e-7 with log scale" (s3prl issue 498,
the benchmark's author; issue 120 speaks of five rates per task, without naming them)."""

RATES_PER_TASK = 5
"""Rates in a task's own grid: the rate of its settings, and two powers of ten to each side."""

SHARE = 0.1
"""Share of a task's steps for which a try is trained."""

UNSEARCHED = {
    "qbe": "nothing is trained",
    "sv": "the benchmark has no development set for it, and test data must not choose",
}
"""Tasks without a search, and why."""

CHOICE_FILE = "choice.json"
RATE = "{rate}"
"""Placeholder for the chosen rate in the arguments of the full run."""


def grid(learning_rate: float) -> tuple[float, ...]:
    """A task's own rates around the rate of its settings, within the benchmark's range; highest first."""
    nearest = min(range(len(LEARNING_RATES)), key=lambda i: abs(math.log10(LEARNING_RATES[i] / learning_rate)))
    first = min(max(nearest - RATES_PER_TASK // 2, 0), len(LEARNING_RATES) - RATES_PER_TASK)
    return LEARNING_RATES[first : first + RATES_PER_TASK]


def short_steps(config: Mapping[str, Any], share: float) -> int:
    """Steps of a try: a share of the settings' steps, rounded to whole evaluations, at least one.

    Args:
        config: the task's settings.
        share: share of `runner.total_steps`.
    """
    total, interval = config["runner"]["total_steps"], config["runner"]["eval_step"]
    return min(max(round(share * total / interval), 1) * interval, total)


def check_share(share: float) -> float:
    """Check the share of a task's steps for which a rate is tried: in (0, 1], else UserError."""
    if not 0 < share <= 1:
        raise UserError(f"--lr-share must be more than 0 and at most 1, but is {share:g}.")
    return share


def check_searched(rates: Mapping[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    """Rates by their tasks' short names.

    Raises:
        UserError: on an unknown task, or one that cannot be searched.
    """
    named = {find_task(name).name: values for name, values in rates.items()}
    for name in named:
        if name in UNSEARCHED:
            raise UserError(f"--lr {name}=...: is not searched, since {UNSEARCHED[name]}. Leave it out.")
    return named


def try_folder(target: Path, learning_rate: float, steps: int) -> Path:
    """The folder in which one rate is tried.

    Args:
        target: the task's folder, `results/<row>/<task>`.
        learning_rate: the rate.
        steps: steps of the try.
    """
    return _search_folder(target) / f"lr{rate_name(learning_rate)}-{steps}steps"


def rate_name(learning_rate: float) -> str:
    """A rate in names of jobs and folders: short, but different for different rates."""
    short = f"{learning_rate:g}"
    return short if float(short) == learning_rate else repr(learning_rate)


def train_with_chosen(target: Path, learning_rates: Sequence[float], steps: int, words: Sequence[str]) -> NoReturn:
    """Choose a rate, and replace this process by the call that trains and evaluates with it and records the tries.

    A run with an earlier choice of another rate, or of an earlier version without `run.json`, is moved aside.

    Args:
        target: the task's folder, `results/<row>/<task>`.
        learning_rates: the rates that must have been tried. Folders of other rates are recorded, but not chosen from.
        steps: steps of the tries.
        words: arguments of `run_downstream.py`, with `RATE` in place of the rate.

    Raises:
        UserError: if a rate is not finished, the tries do not belong together, or the folder holds another run.
    """
    refuse_plain_run(target)
    choice = Choice(tried_rates=choose(target, learning_rates, steps))
    rate, result = _chosen(choice.tried_rates), target / RESULT_FILE
    if target.exists() and (rate != _rate_of(target) or not (target / RUN_FILE).is_file()):
        move_aside(target)
    if result.is_file():
        found = read_result(result)
        write_result(result, replace(found, tried_rates=choice.with_metrics(found.metrics)))
    path = _search_folder(target) / CHOICE_FILE
    write_json(path, to_dict(choice))
    print(f"{target.name}: learning rate {rate:g}, the best of {len(learning_rates)} on dev", flush=True)
    own = [word.replace(RATE, f"{rate!r}") for word in words]
    command = [*call("downstream"), "--tried-rates", str(path), *own]
    os.execv(command[0], command)  # so that signals reach the training itself


def choose(target: Path, learning_rates: Sequence[float], steps: int) -> list[TriedRate]:
    """The tried rates, with the best by the task's criterion on the development set marked as chosen.

    Args:
        target: the task's folder, `results/<row>/<task>`.
        learning_rates: the rates that must have been tried.
        steps: steps of the tries.

    Raises:
        UserError: if a rate is not finished, the tries do not belong together, or none improved on the start.
    """
    found = {rate: _read_try(try_folder(target, rate, steps)) for rate in learning_rates}
    models = {(trained.upstream.name, trained.upstream.sha256, trained.seed) for trained in found.values()}
    if len(models) > 1:
        raise UserError(
            f"{target.name}: tries must be of one model and seed, but are of {sorted(map(str, models))} "
            f"(see {_search_folder(target)})."
        )
    criteria = {rate: criterion(trained) for rate, trained in found.items()}
    choosable = {rate: value for rate, value in criteria.items() if value}
    if not choosable:
        raise UserError(
            f"{target.name}: no try says its checkpoint's value on dev, so that none can be chosen: with none of the "
            f"rates did it improve on the start (see {_search_folder(target)}). Try for more steps "
            "(--lr-share), or other rates (--lr)."
        )
    better = min if _better(next(iter(choosable.values())).name) == "down" else max
    best = better(choosable, key=lambda rate: choosable[rate].percent)
    tried = [
        TriedRate(
            learning_rate=rate, folder=_relative(target, try_folder(target, rate, steps)), criterion=criteria[rate],
            chosen=rate == best,
        )
        for rate in found
    ]  # fmt: skip
    return tried + [
        TriedRate(learning_rate=rate, folder=_relative(target, folder))
        for rate, folder in _other_tries(target, learning_rates)
    ]


def criterion(trained: TrainedRun) -> Value | None:
    """The value by which a rate is chosen: the best value on dev, or its mean over folds.

    None if training never improved on the start, in any fold: s3prl then writes no best checkpoint.
    """
    values = [value for value in trained.dev if value]
    if not values or len(values) < len(trained.dev):
        return None
    return Value(name=values[0].name, value=sum(value.value for value in values) / len(values), unit=values[0].unit)


def is_searched(target: Path) -> bool:
    """Whether a task's folder holds, or will hold, the full run of a search."""
    result = target / RESULT_FILE
    if result.is_file():
        return read_result(result).tried_rates is not None
    return (_search_folder(target) / CHOICE_FILE).is_file()


def refuse_plain_run(target: Path) -> None:
    """Stop if the full run of a search would use the folder of a run without a search.

    Raises:
        UserError: with what to do.
    """
    if target.is_dir() and any(target.iterdir()) and not is_searched(target):
        raise UserError(
            f"{target}: holds a run without a learning-rate search. Move it, or give another name (-u NAME=UPSTREAM)."
        )


def _search_folder(target: Path) -> Path:
    return target.parent / "lr_search" / target.name


def _rate_of(target: Path) -> float | None:
    """The rate of the full run in a task's folder."""
    path = target / RESULT_FILE
    if path.is_file():
        return _chosen(read_result(path).tried_rates or [])
    choice = _search_folder(target) / CHOICE_FILE
    return _chosen(read_choice(choice).tried_rates) if choice.is_file() else None


def _chosen(tried: Sequence[TriedRate]) -> float | None:
    return next((one.learning_rate for one in tried if one.chosen), None)


def _read_try(folder: Path) -> TrainedRun:
    if not (folder / TRAINED_FILE).is_file():
        raise UserError(f"{folder}: is not finished. Finish it, or leave this rate out (--lr).")
    return read_trained(folder)


def _other_tries(target: Path, learning_rates: Sequence[float]) -> list[tuple[float, Path]]:
    """Other rates that were tried besides `learning_rates`, with their folders; highest first."""
    found = {}
    for folder in sorted(_search_folder(target).glob("lr*")):
        # Earlier versions had no steps in the name.
        if match := re.fullmatch(r"lr([0-9.]+(?:e[-+]?\d+)?)(-\d+steps)?", folder.name):
            found[float(match[1])] = folder
    return sorted(((rate, folder) for rate, folder in found.items() if rate not in learning_rates), reverse=True)


def _better(name: str) -> Literal["up", "down"]:
    """Whether a criterion is better up or down, as any task's metric of its name (diarization: frame accuracy)."""
    for task in TASKS.values():
        for metric in task.metrics:
            if metric.name == name:
                return metric.better
    raise UserError(f"{name}: no task has a metric of this name, so nothing can be chosen by it.")


def _relative(target: Path, folder: Path) -> str:
    return str(Path("..") / folder.relative_to(target.parent))
