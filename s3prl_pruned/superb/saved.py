"""A table that was written as JSON (``superb_score.json``, ``--format json``), read again: on another machine, or years later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.superb.results import Result, Upstream, read_json
from s3prl_pruned.superb.table import KINDS, Row, row_scores
from s3prl_pruned.superb.tasks import Value, find_task


def saved_rows(path: Path) -> tuple[list[Row], list[Path]]:
    """The rows of a saved table; scores are computed again from its metrics.

    Returns:
        Rows in the file's order, and what was unfinished.

    Raises:
        UserError: if the file is no such table, or holds a value that cannot be.
    """
    data = read_json(path)
    try:
        rows = [_row(entry, str(path)) for entry in data["rows"]]
        return rows, [Path(folder) for folder in data["unfinished"]]
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: must be a table that superb_score.py wrote as JSON, but is not ({reason}).") from error


def _row(entry: dict[str, Any], where: str) -> Row:
    name = entry["name"]
    if entry["kind"] not in KINDS:
        raise UserError(f"{where}: {name}: kind must be one of {', '.join(KINDS)}, but is {entry['kind']!r}.")
    results = [_result(entry, task, metrics, f"{where}: {name}") for task, metrics in entry["metrics"].items()]
    return Row(
        name=name, sha256=entry["sha256"], results={result.task: result for result in results}, scores=row_scores(results),
        notes=entry["notes"], kind=entry["kind"], params_millions=entry["params_millions"],
    )  # fmt: skip


def _result(entry: dict[str, Any], task: str, metrics: dict[str, dict[str, float]], where: str) -> Result:
    values = [{"name": name, "value": numbers["percent"], "unit": "percent"} for name, numbers in metrics.items()]
    result = Result(
        task=task, split=find_task(task).test_split, num_utterances=0,
        metrics=[from_dict(Value, value, f"{where}: {task}") for value in values], printed_by_s3prl=[],
        protocol=entry["protocols"][task], upstream=Upstream(name=entry["name"], sha256=entry["sha256"]),
    )  # fmt: skip
    result.validate()
    return result
