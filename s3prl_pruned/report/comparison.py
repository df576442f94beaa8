"""Test, task by task, whether one row of the score table is significantly better than another.

WER and PER are tested by matched pairs (MAPSSWE), accuracies by McNemar's exact test, other metrics by the bootstrap,
which also gives the intervals of all metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.report import resampling
from s3prl_pruned.report.kept import KeptTest, kept_tests
from s3prl_pruned.report.significance import mapsswe, mcnemar
from s3prl_pruned.superb.results.result import Result
from s3prl_pruned.superb.results.s3prl_runs.found import NO_REFERENCES, References
from s3prl_pruned.superb.score.scored_models import ScoredModel
from s3prl_pruned.tables import Column, Table

CAUTION = (
    "Each p is for a single comparison: of twenty between equal models one is below 0.05. It says nothing about "
    "training with another seed."
)


@dataclass(frozen=True, kw_only=True)
class ComparedMetric:
    """One metric of two runs."""

    task: str
    metric: str
    values: tuple[float, float]
    """Values of the first and the second run in percent."""
    difference: tuple[float, float]
    """95 % interval of the first minus the second, in percentage points."""
    test: str
    p_value: float | None
    """None if the test does not apply; ``test`` then says why."""


def compare(
    first: ScoredModel, second: ScoredModel, folders: dict[str, dict[str, list[Path]]],
    references: References = NO_REFERENCES,
) -> list[ComparedMetric]:  # fmt: skip
    """Compare two rows in all metrics of their common tasks.

    Args:
        first: a row of the score table.
        second: another row.
        folders: the runs' folders, by row and task (`collect.folders_of`).
        references: as in `kept_tests`.

    Raises:
        UserError: if the rows have no task in common, or were not tested on the same data.
    """
    tasks = [task for task in first.results if task in second.results]
    if not tasks:
        raise UserError(f"{first.name} and {second.name} have no task in common, so they cannot be compared.")
    found = []
    for task in tasks:
        tests = [
            {test.name: test for test in kept_tests(row.results[task], folders[row.name][task], references)}
            for row in (first, second)
        ]
        found += [_compare(task, tests[0][name], tests[1][name]) for name in tests[0] if name in tests[1]]
    return found


def _compare(task: str, first: KeptTest, second: KeptTest) -> ComparedMetric:
    one, other = first.resampled, second.resampled
    alone = sorted(set(one.pieces) ^ set(other.pieces))
    if alone or (first.texts and second.texts and first.texts[1] != second.texts[1]):
        why = f"{len(alone)} {one.kind} are in one of them only ({alone[0]})" if alone else "their references differ"
        raise UserError(f"{task} {first.name}: the two runs must be of one test set, but {why}.")
    differences = one.draws() - other.draws()
    test, p_value = _tested(first, second)
    if test is None:
        test, p_value = f"bootstrap of {len(one.pieces)} {one.kind}", resampling.p_value(differences)
    return ComparedMetric(
        task=task, metric=first.name, values=(one.value(), other.value()), difference=resampling.interval(differences),
        test=test, p_value=p_value,
    )  # fmt: skip


def _tested(first: KeptTest, second: KeptTest) -> tuple[str | None, float | None]:
    """The name and p-value of the test for this kind of metric; None if there is only the bootstrap."""
    if first.texts and second.texts:
        (hypotheses, references), (others, _) = first.texts, second.texts
        try:
            found = mapsswe(references, hypotheses, others)
        except UserError as error:  # no spread
            return f"MAPSSWE: {error}", None
        return f"MAPSSWE, {found.segments} segments", found.p_value
    if first.correct:
        names = sorted(first.correct)
        toss = mcnemar([first.correct[name] for name in names], [second.correct[name] for name in names])
        return f"McNemar, {toss.first_only} to {toss.second_only}", toss.p_value
    return None, None


def as_text(compared: list[ComparedMetric], names: tuple[str, str]) -> str:
    """The comparison as a table of text.

    Args:
        compared: as returned by `compare`.
        names: names of the two rows.
    """
    columns = [
        Column("task and metric, percent"),
        *(Column(f"value {number}", name, align="right", show="{:.2f}") for number, name in enumerate(names)),
        Column("difference", align="right", show="{:+.2f}"),
        Column("95 % interval", align="right"),
        Column("test"),
        Column("p", align="right", show=lambda p: f"{p:.4f}" if p >= 1e-4 else f"{p:.0e}"),
    ]
    rows = []
    for each in compared:
        low, high = each.difference
        name, between = f"{each.task} {each.metric}", f"{low:+.2f} to {high:+.2f}"
        rows.append([name, *each.values, each.values[0] - each.values[1], between, each.test, each.p_value])
    return "\n".join([Table(columns, rows).text(), "", CAUTION])


def intervals_text(
    models: list[ScoredModel], folders: dict[str, dict[str, list[Path]]], references: References = NO_REFERENCES
) -> str:
    """The 95 % bootstrap intervals of all metrics that have them, and why others do not.

    Args:
        models: rows of the score table.
        folders: the runs' folders, by row and task; rows that are not in it have no intervals.
        references: as in `kept_tests`.
    """
    rows, left_out = [], []
    for model in models:
        for task, result in model.results.items() if model.name in folders else ():
            try:
                tests = _drawn(result, folders[model.name][task], references)
            except UserError as error:
                left_out.append(f"left out: {model.name} {task}: {error}")
                continue
            rows += [[model.name, f"{task} {name}", *numbers] for name, *numbers in tests]
    columns: list[Column | str] = [
        "model",
        "task and metric",
        Column("percent", align="right"),
        Column("95 % interval", align="right"),
        "",
    ]
    return "\n".join([Table(columns, rows).text(), *left_out])


def _drawn(result: Result, folders: list[Path], references: References) -> list[tuple[str, str, str, str]]:
    found = []
    for test in kept_tests(result, folders, references):
        low, high = resampling.interval(test.resampled.draws())
        pieces = f"bootstrap of {len(test.resampled.pieces)} {test.resampled.kind}"
        found.append((test.name, f"{test.resampled.value():.2f}", f"{low:.2f} to {high:.2f}", pieces))
    return found
