"""The mini-score: eq. 6 of Wang et al. 2023 between two measured rows, for corpora and settings that are not SUPERB's.

    mini-score = 1000 / N * sum over N tasks of (m - m_low) / (m_high - m_low)

`low` is FBANK's row and `high` the teacher's, in place of the benchmark's constants: 0 is FBANK, 1000 the teacher. It says how
much of what the teacher is better by a smaller model keeps, on these corpora, and is comparable with nothing else. Where the
two rows have several seeds (experiments), tasks that do not tell them apart are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.score import counted_metrics
from s3prl_pruned.superb.table import Row
from s3prl_pruned.superb.tasks import TASKS, Metric

COUNTED = ("pr", "asr", "ks", "qbe", "sid", "sv", "sd")
"""Tasks of MINI-SUPERB with real speech and real labels; its IC, SF and ER are synthetic."""


@dataclass(frozen=True, kw_only=True)
class MiniScore:
    """One row's mini-score."""

    name: str
    terms: dict[str, float]
    """By task: 0 for the low row, 1000 for the high one."""
    missing: tuple[str, ...]
    """Tasks that count, but of which the row has no result."""

    @property
    def total(self) -> float | None:
        """The mini-score; None where a task is missing."""
        return None if self.missing or not self.terms else sum(self.terms.values()) / len(self.terms)


def mini_scores(
    rows: list[Row], low: str, high: str, *, spreads: Mapping[tuple[str, str], float] | None = None
) -> tuple[list[MiniScore], list[str]]:
    """The mini-score of every row between two of them.

    Args:
        rows: as `table.make_rows` gave them.
        low: the name of the row that is 0, FBANK's.
        high: the name of the row that is 1000, the teacher's.
        spreads: of each task and metric, standard deviation over seeds of those two rows, in percent, where it is known.

    Returns:
        One per row, in their order, and the tasks that do not count, with the reason: one of the two rows lacks them, the
        teacher is not better than FBANK by two spreads (or at all), so that they cannot tell how much of it is kept, or they
        are not of `COUNTED`.

    Raises:
        UserError: no such row, no task counts, or a task was run under different protocols.
    """
    by_name = {row.name: row for row in rows}
    for name in (low, high):
        if name not in by_name:
            raise UserError(f"the mini-score is to be between {low!r} and {high!r}, but there is no row {name!r}, only {list(by_name)}.")
    bottom, top = by_name[low], by_name[high]
    counted, left_out = counted_tasks(bottom, top, spreads or {})
    if not counted:
        raise UserError(f"no task counts for a mini-score between {low!r} and {high!r}: {'; '.join(left_out)}.")
    return [_score(row, bottom, top, counted) for row in rows], left_out


def counted_tasks(bottom: Row, top: Row, spreads: Mapping[tuple[str, str], float]) -> tuple[list[str], list[str]]:
    """The tasks that count between two rows, and those that do not with the reason; `spreads` as `mini_scores` takes them."""
    left_out, counted = [], []
    for task in COUNTED:
        if task not in bottom.results or task not in top.results:
            left_out.append(f"{task}: {bottom.name} or {top.name} has no result")
        elif reason := _indistinct(task, bottom, top, spreads):
            left_out.append(reason)
        else:
            counted.append(task)
    left_out += [f"{task}: synthetic speech in MINI-SUPERB" for task in TASKS if task not in COUNTED and task in bottom.results]
    return counted, left_out


def _indistinct(task: str, bottom: Row, top: Row, spreads: Mapping[tuple[str, str], float]) -> str | None:
    """Why a task cannot tell the two rows from one another; None where it can."""
    for metric in counted_metrics(task, "leaderboard"):
        room, spread = _room(metric, task, bottom, top), spreads.get((task, metric.name), 0.0)
        if room <= 0:
            return f"{task}: {top.name} is no better than {bottom.name}"
        if room < 2 * spread:
            return f"{task}: {top.name} is better than {bottom.name} by {room:.1f} only, and their seeds spread by {spread:.1f}"
    return None


def _score(row: Row, bottom: Row, top: Row, counted: list[str]) -> MiniScore:
    present = [task for task in counted if task in row.results]
    terms = {task: _term(task, row, bottom, top) for task in present}
    return MiniScore(name=row.name, terms=terms, missing=tuple(task for task in counted if task not in present))


def _term(task: str, row: Row, bottom: Row, top: Row) -> float:
    protocols = {which.name: which.results[task].protocol for which in (row, bottom, top)}
    if len(set(protocols.values())) > 1:
        raise UserError(f"{task}: a mini-score compares runs of one protocol, but they are {protocols}. Run them alike.")
    metrics = counted_metrics(task, "leaderboard")
    return sum(1000 * _room(metric, task, bottom, row) / _room(metric, task, bottom, top) for metric in metrics) / len(metrics)


def _room(metric: Metric, task: str, low: Row, high: Row) -> float:
    """By how much `high` is better than `low`, in percent."""
    difference = high.results[task].values()[metric.name].percent - low.results[task].values()[metric.name].percent
    return difference if metric.better == "up" else -difference


def as_text(scores: list[MiniScore], left_out: list[str], low: str, high: str) -> str:
    """A table for a screen."""
    tasks = [task for task in COUNTED if any(task in score.terms for score in scores)]
    width = max(len(score.name) for score in scores)
    lines = [f"mini-score, not SUPERB's: 0 is {low}, 1000 is {high}, on these corpora and settings"]
    lines.append(f"{'':<{width}}" + "".join(f"{task:>8}" for task in tasks) + f"{'mini':>8}")
    for score in scores:
        terms = "".join(f"{score.terms[task]:>8.0f}" if task in score.terms else f"{'-':>8}" for task in tasks)
        lines.append(f"{score.name:<{width}}{terms}" + (f"{'-':>8}" if score.total is None else f"{score.total:>8.0f}"))
    return "\n".join([*lines, *(f"left out: {reason}" for reason in left_out)])


def as_data(scores: list[MiniScore], left_out: list[str], low: str, high: str) -> dict:
    """The same as plain data."""
    return {
        "low": low,
        "high": high,
        "left_out": left_out,
        "rows": [{"name": s.name, "mini_score": s.total, "terms": s.terms, "missing": list(s.missing)} for s in scores],
    }
