"""An experiment's table, from its JSON data alone: mean and spread over seeds."""

from collections.abc import Callable
from statistics import mean, stdev
from typing import Any

from s3prl_pruned.superb.catalogue import TASKS
from s3prl_pruned.tables import Column, Table


def as_markdown(data: dict) -> str:
    """A line per row: mean +- standard deviation over seeds in percent; then the tasks that do not count."""
    columns = [
        (task, metric.name) for task in TASKS for metric in TASKS[task].metrics
        if any(metric.name in row["metrics"].get(task, {}) for row in data["rows"])
    ]  # fmt: skip
    timed = "timing" in data
    table = Table(
        [
            Column("name", ""),
            _column("params", "params M", lambda params: f"{params / 1e6:.2f}"),
            _column("macs", "MACs, 5 s", lambda macs: f"{macs / 1e9:.3f} G"),
            *([_column("speed", "speed, 5 s", lambda speeds: _spread(speeds, 2), absent="-")] if timed else []),
            *(
                _column(
                    f"{task} {name}", f"{task.upper()} {name.upper()}", lambda values: _spread(values, 1), absent="-"
                )
                for task, name in columns
            ),
            _column("mini_score", "mini-score", lambda scores: _spread(scores, 0), absent="-"),
        ],
        [_row(row) for row in data["rows"]],
    ).markdown()
    left_out = "".join(f"\n- not in the mini-score: {reason}" for reason in data["mini_score"]["left_out"])
    return f"{table}\n{left_out}{_noise(data)}".rstrip()


def _column(key: str, header: str, show: Callable[[Any], str], *, absent: str = "") -> Column:
    return Column(key, header, align="right", show=show, absent=absent)


def _row(row: dict) -> dict:
    """The cells of a row: numbers, or lists of a number for each seed."""
    metrics = {f"{task} {name}": values for task, of_task in row["metrics"].items() for name, values in of_task.items()}
    score = row["mini_score"] or {}
    seeds = [] if score.get("score") is None else [seed for seed in score["seeds"] if seed is not None]
    return {**row, **metrics, "mini_score": seeds}


def _noise(data: dict) -> str:
    noisy = data.get("timing", {}).get("noisy")
    return f"\n- TOO NOISY a machine when these were timed: {', '.join(noisy)}" if noisy else ""


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    return f"{mean(values):.{digits}f}" + (f" +- {stdev(values):.{digits}f}" if len(values) > 1 else "")
