"""The SUPERB score, eq. 6 of Wang et al. 2023: pure functions on metrics that carry their units.

    score = 1000 / 10 * sum over the ten tasks of (m - m_fbank) / (m_sota - m_fbank)

Two scales are in use, and a number without its scale's name means nothing:

- ``paper``: the state of the art is WavLM Large, and slot filling counts by its F1 alone. Recomputed from Table 1's own
  metrics, it gives the printed scores of seven of the eight rows within 0.01. The eighth, "w/o FAHP", prints 721.79,
  but its metrics give 707.11: that row is inconsistent in itself.
- ``leaderboard``: superbbenchmark.org's constants, and slot filling counts by the mean of its F1 and its CER term. It
  gives the leaderboard's published scores within about one point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from s3prl_pruned.superb.catalogue import TASKS, Metric, Value
from s3prl_pruned.superb.score.published import PublishedModel

Scale = Literal["paper", "leaderboard"]
SCALES: tuple[Scale, ...] = ("paper", "leaderboard")


@dataclass(frozen=True)
class SuperbScore:
    """The score on one scale, from the tasks that have metrics."""

    scale: Scale
    terms: dict[str, float]
    """Terms by task: 0 for FBANK, 1000 for the state of the art."""
    missing: tuple[str, ...]
    """Tasks that lack a metric of this scale."""
    applies: bool = True
    """False where no task was run by the benchmark's protocol: the scale does not apply to such results."""

    @property
    def total(self) -> float | None:
        """The score; None if a task is missing, since a partial mean is no score, or if the scale does not apply."""
        return None if self.missing or not self.applies else sum(self.terms.values()) / len(TASKS)

    @property
    def partial(self) -> float | None:
        """The mean over the available tasks, only to be shown together with ``missing``."""
        return sum(self.terms.values()) / len(self.terms) if self.terms and self.applies else None


def normalised(value: Value, metric: Metric, scale: Scale) -> float:
    """One metric's term: 0 for FBANK, 1000 for the state of the art, for errors and accuracies alike."""
    sota = metric.sota_paper if scale == "paper" else metric.sota_leaderboard
    return 1000 * (value.percent - metric.fbank) / (sota - metric.fbank)


def superb_score(values: Mapping[str, Mapping[str, Value]], scale: Scale) -> SuperbScore:
    """The score of one model.

    Args:
        values: metrics by the task's short name, then by the metric's name. Metrics that do not count are ignored.
        scale: decides the constants, and the metrics of slot filling.

    Raises:
        UserError: if a value is not finite or impossible in its unit.
    """
    terms, missing = {}, []
    for name in TASKS:
        counted, given = counted_metrics(name, scale), values.get(name, {})
        if any(metric.name not in given for metric in counted):
            missing.append(name)
            continue
        for metric in counted:
            metric.check(given[metric.name], name)
        term = [normalised(given[metric.name], metric, scale) for metric in counted]
        terms[name] = sum(term) / len(term)
    return SuperbScore(scale, terms, tuple(missing))


def counted_metrics(task: str, scale: Scale) -> tuple[Metric, ...]:
    """The metrics of a task that count on a scale: the paper's scale leaves out slot filling's CER."""
    metrics = TASKS[task].metrics
    return metrics[:1] if scale == "paper" else metrics


def published_values(published: PublishedModel) -> dict[str, dict[str, Value]]:
    """A published model's metrics, as ``superb_score`` takes them."""
    return {
        task: {
            metric.name: Value(name=metric.name, value=number, unit="percent")
            for metric, number in zip(TASKS[task].metrics, numbers, strict=True)
        }
        for task, numbers in published.metrics.items()
    }


def paper_score(published: PublishedModel) -> float:
    """The score of a published model on the paper's scale, from its own metrics."""
    score = superb_score(published_values(published), "paper").total
    assert score is not None, f"the catalogue gives {published.model} without all ten tasks"
    return score


def agrees_with_table1(published: PublishedModel) -> bool:
    """Whether the score in Table 1 agrees with its own metrics; both are rounded to two digits."""
    assert published.table1_score is not None, f"{published.model} is not of Table 1"
    return abs(paper_score(published) - published.table1_score) <= 0.01
