"""The mini-score: eq. 6 of Wang et al. 2023 between two measured models, for other corpora and settings than SUPERB's.

    mini-score = 1000 / N * sum over N tasks of (m - m_low) / (m_high - m_low)

`low` is FBANK and `high` the teacher, in place of the benchmark's constants: 0 is FBANK, 1000 the teacher. The
mini-score says how much of the teacher's advantage over FBANK a smaller model keeps on these corpora, and is comparable
with nothing else. Where the two have several seeds (experiments), tasks that cannot tell them apart are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import TASKS, Metric
from s3prl_pruned.superb.score.score import counted_metrics
from s3prl_pruned.superb.score.scored_models import ScoredModel
from s3prl_pruned.tables import Column, Table

COUNTED = ("pr", "asr", "ks", "qbe", "sid", "sv", "sd")
"""Tasks of MINI-SUPERB with real speech and real labels; its IC, SF and ER are synthetic."""


@dataclass(frozen=True, kw_only=True)
class MiniScore:
    """One model's mini-score."""

    name: str
    terms: dict[str, float]
    """Terms by task: 0 for the low model, 1000 for the high one."""
    missing: tuple[str, ...]
    """Tasks that count, but for which the model has no result."""

    @property
    def total(self) -> float | None:
        """The mini-score; None where a task is missing."""
        return None if self.missing or not self.terms else sum(self.terms.values()) / len(self.terms)


def mini_scores(
    models: list[ScoredModel], low: str, high: str, *, spreads: Mapping[tuple[str, str], float] | None = None
) -> tuple[list[MiniScore], list[str]]:
    """The mini-score of every model between two of them.

    Args:
        models: as `measured_models` returns them.
        low: the name of the model that is 0, FBANK.
        high: the name of the model that is 1000, the teacher.
        spreads: by task and metric, the standard deviation over seeds of those two models, in percent, where known.

    Returns:
        One mini-score per model, in their order, and the tasks that do not count, with the reason: one of the two
        models lacks them; the teacher is not better than FBANK by two spreads (or at all), so that they cannot tell
        how much is kept; or they are not in `COUNTED`.

    Raises:
        UserError: if there is no such model, no task counts, or a task was run under different protocols.
    """
    by_name = {model.name: model for model in models}
    for name in (low, high):
        if name not in by_name:
            raise UserError(
                f"the mini-score must be between {low!r} and {high!r}, but there is no row {name!r}, only "
                f"{list(by_name)}."
            )
    bottom, top = by_name[low], by_name[high]
    counted, left_out = counted_tasks(bottom, top, spreads or {})
    if not counted:
        raise UserError(f"no task counts for a mini-score between {low!r} and {high!r}: {'; '.join(left_out)}.")
    return [_mini_score(model, bottom, top, counted) for model in models], left_out


def ends_of(models: list[ScoredModel]) -> tuple[str, str] | None:
    """The names of FBANK's row and of the embedded teacher's, if there can be a mini-score between the two.

    Args:
        models: rows of a table.

    Returns:
        None if one of them is missing or exists twice, the teacher is no better than FBANK, or protocols differ.
    """
    found = [[model for model in models if _is_of(model, upstream)] for upstream in ("fbank", "wavlm_embedded")]
    if [len(rows) for rows in found] != [1, 1]:
        return None
    (bottom,), (top,) = found
    counted, _ = counted_tasks(bottom, top, {})
    protocols = [{model.results[task].protocol for model in models if task in model.results} for task in counted]
    alike = all(len(names) == 1 for names in protocols)
    return (bottom.name, top.name) if counted and alike else None


def _is_of(model: ScoredModel, upstream: str) -> bool:
    return {result.upstream.name for result in model.results.values()} == {upstream}


def counted_tasks(
    bottom: ScoredModel, top: ScoredModel, spreads: Mapping[tuple[str, str], float]
) -> tuple[list[str], list[str]]:
    """The tasks that count between two models, and the reasons why the others do not.

    Args:
        bottom: the model that is 0.
        top: the model that is 1000.
        spreads: as in `mini_scores`.
    """
    left_out, counted = [], []
    for task in COUNTED:
        if task not in bottom.results or task not in top.results:
            left_out.append(f"{task}: {bottom.name} or {top.name} has no result")
        elif reason := _indistinct(task, bottom, top, spreads):
            left_out.append(reason)
        else:
            counted.append(task)
    left_out += [
        f"{task}: synthetic speech in MINI-SUPERB" for task in TASKS if task not in COUNTED and task in bottom.results
    ]
    return counted, left_out


def _indistinct(
    task: str, bottom: ScoredModel, top: ScoredModel, spreads: Mapping[tuple[str, str], float]
) -> str | None:
    """Why a task cannot tell the two models from one another; None where it can."""
    for metric in counted_metrics(task, "leaderboard"):
        room, spread = _room(metric, task, bottom, top), spreads.get((task, metric.name), 0.0)
        if room <= 0:
            return f"{task}: {top.name} is no better than {bottom.name}"
        if room < 2 * spread:
            better = f"{top.name} is better than {bottom.name} by {room:.1f} only"
            return f"{task}: {better}, and their seeds spread by {spread:.1f}"
    return None


def _mini_score(model: ScoredModel, bottom: ScoredModel, top: ScoredModel, counted: list[str]) -> MiniScore:
    present = [task for task in counted if task in model.results]
    terms = {task: _term(task, model, bottom, top) for task in present}
    return MiniScore(name=model.name, terms=terms, missing=tuple(task for task in counted if task not in present))


def _term(task: str, model: ScoredModel, bottom: ScoredModel, top: ScoredModel) -> float:
    protocols = {which.name: which.results[task].protocol for which in (model, bottom, top)}
    if len(set(protocols.values())) > 1:
        raise UserError(
            f"{task}: a mini-score compares runs of one protocol, but they are {protocols}. Run them alike."
        )
    metrics = counted_metrics(task, "leaderboard")
    terms = [1000 * _room(metric, task, bottom, model) / _room(metric, task, bottom, top) for metric in metrics]
    return sum(terms) / len(terms)


def _room(metric: Metric, task: str, low: ScoredModel, high: ScoredModel) -> float:
    """By how much `high` is better than `low`, in percent."""
    difference = high.results[task].values()[metric.name].percent - low.results[task].values()[metric.name].percent
    return difference if metric.better == "up" else -difference


def as_text(scores: list[MiniScore], left_out: list[str], low: str, high: str) -> str:
    """The table as text; the arguments are the arguments and results of `mini_scores`."""
    tasks = [task for task in COUNTED if any(task in score.terms for score in scores)]
    numbers = [Column(name, align="right", show="{:.0f}") for name in (*tasks, "mini")]
    rows = [[score.name, *(score.terms.get(task) for task in tasks), score.total] for score in scores]
    title = f"mini-score, not SUPERB's: 0 is {low}, 1000 is {high}, on these corpora and settings"
    table = Table([Column("name", header=""), *numbers], rows)
    return "\n".join([title, table.text(), *(f"left out: {reason}" for reason in left_out)])


def as_data(scores: list[MiniScore], left_out: list[str], low: str, high: str) -> dict:
    """The same as plain data."""
    return {
        "low": low,
        "high": high,
        "left_out": left_out,
        "rows": [{"name": s.name, "mini_score": s.total, "terms": s.terms, "missing": list(s.missing)} for s in scores],
    }
