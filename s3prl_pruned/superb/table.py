"""The score table: rows of results into metrics, normalised values and scores, in detail, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.collect import UNKNOWN_PROTOCOL, finished_runs
from s3prl_pruned.superb.foreign import References
from s3prl_pruned.superb.given import read_given
from s3prl_pruned.superb.results import Result, Upstream, write_json
from s3prl_pruned.superb.score import SCALES, Score, counted_metrics, normalised, published_values, superb_score
from s3prl_pruned.superb.tasks import PUBLISHED, TASKS, Value

Kind = Literal["measured", "published", "given"]
KINDS = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One upstream: one model, its results by task, its score on both scales."""

    name: str
    """The folder's name, which is the upstream's unless ``-n`` named it; of other kinds the model's."""
    sha256: str | None
    results: dict[str, Result]
    scores: dict[str, Score]
    notes: list[str] = field(default_factory=list)
    """What must be said beside the numbers: the teacher, the protocol, where they come from."""
    kind: Kind = "measured"
    """Read from run directories; or published, or given in a hand-written file: not checked by us."""
    params_millions: float | None = None
    """Of the upstream. None where the results do not say."""


def make_rows(root: Path, references: References = References()) -> tuple[list[Row], list[Path]]:
    """Read all results below a folder (see ``collect.finished_runs``).

    Returns:
        Rows by name, and the folders of unfinished runs.

    Raises:
        UserError: on unreadable or impossible results, or a row of several models.
    """
    runs, unfinished = finished_runs(root, references)
    return [_row(name, results) for name, results in sorted(runs.items())], unfinished


def published_rows() -> list[Row]:
    """The published models that stand beside ours (``tasks.PUBLISHED``)."""
    rows = []
    for published in PUBLISHED:
        values = {task: list(metrics.values()) for task, metrics in published_values(published).items()}
        notes = [f"published: {published.source}"]
        recomputed = superb_score(published_values(published), "paper").total
        if published.table1_score is not None and abs(recomputed - published.table1_score) > 0.01:
            notes.append(f"printed with {published.table1_score:.2f} on the paper's scale, which its own metrics do not give")
        rows.append(_unchecked_row(published.model, values, "published", notes, published.params_millions))
    return rows


def given_rows(path: Path) -> list[Row]:
    """The models of a hand-written file (see ``given``)."""
    rows = []
    for model in read_given(path):
        notes = [f"given in {path.name}" + (f": {model.source}" if model.source else "")]
        rows.append(_unchecked_row(model.model, model.metrics, "given", notes, model.params_millions))
    return rows


def _unchecked_row(
    name: str, metrics: dict[str, list[Value]], kind: Kind, notes: list[str], params_millions: float | None
) -> Row:
    results = [
        Result(
            task=task, split=TASKS[task].test_split, num_utterances=0, metrics=metrics[task], printed_by_s3prl=[],
            protocol=kind, upstream=Upstream(name=name),
        )
        for task in TASKS if task in metrics
    ]  # fmt: skip
    return Row(
        name=name, sha256=None, results={result.task: result for result in results}, scores=row_scores(results),
        notes=notes, kind=kind, params_millions=params_millions,
    )  # fmt: skip


def _row(name: str, results: list[Result]) -> Row:
    # s3prl's own directories do not say which model they are of: nothing there to contradict.
    models = {result.upstream.sha256 for result in results if result.protocol != UNKNOWN_PROTOCOL}
    if len(models) > 1:
        listing = "; ".join(f"{result.task}: {result.upstream.sha256 or 'no weights'}" for result in results)
        raise UserError(
            f"{name}: one row must be one model, but its results are of {len(models)} ({listing}). Run the "
            "others again with this model, or under another name (-n)."
        )
    sizes = [result.upstream.num_parameters for result in results if result.upstream.num_parameters]
    return Row(
        name=name,
        sha256=next(iter(models), None),
        results={result.task: result for result in results},
        scores=row_scores(results),
        notes=_notes(results),
        params_millions=sizes[0] / 1e6 if sizes else None,
    )


def row_scores(results: list[Result]) -> dict[str, Score]:
    """The scores of one upstream, by scale."""
    values = {result.task: result.values() for result in results}
    return {scale: superb_score(values, scale) for scale in SCALES}


def _notes(results: list[Result]) -> list[str]:
    notes = [result.upstream.teacher_note for result in results if result.upstream.teacher_note]
    for result in results:
        if result.protocol == UNKNOWN_PROTOCOL:
            notes.append(f"{result.task}: {result.protocol_note}")
        elif result.protocol != "official":
            notes.append(f"{result.task}: {result.protocol} protocol, not comparable with SUPERB's numbers")
    return list(dict.fromkeys(notes))


def as_text(rows: list[Row], unfinished: list[Path]) -> str:
    """The table for a screen, in detail: what holds of every row is said once, above them."""
    shared = [note for note in rows[0].notes if all(note in row.notes for row in rows)] if len(rows) > 1 else []
    lines = [f"! every row: {note}" for note in shared]
    if rows:
        lines.append(f"  {'task':<5}{'metric':<16}{'percent':>9}{'paper':>10}{'leaderboard':>13}")
    for row in rows:
        lines.append(f"{row.name}  ({'SHA-256 ' + row.sha256[:16] if row.sha256 else 'no model hash'})")
        lines += [f"  ! {note}" for note in row.notes if note not in shared]
        for task, result in row.results.items():
            lines += [_metric_line(task, value) for value in result.metrics]
        lines += _score_lines(row)
    lines += unfinished_lines(unfinished)
    return "\n".join(lines)


def unfinished_lines(unfinished: list[Path]) -> list[str]:
    """What stands below a table."""
    return [f"unfinished, not counted: {folder}" for folder in unfinished]


def _metric_line(task: str, value: Value) -> str:
    terms = _columns([_term(task, value, scale) for scale in SCALES], digits=1)
    return f"  {task:<5}{value.name:<16}{value.percent:>9.2f}{terms}"


def _score_lines(row: Row) -> list[str]:
    """One line, or two where the scales lack different tasks."""
    lines = []
    for missing in dict.fromkeys(row.scores[scale].missing for scale in SCALES):
        scores = [score if (score := row.scores[scale]).missing == missing else None for scale in SCALES]
        if not missing:
            lines.append(f"  {'score':<30}{_columns([score and score.total for score in scores], digits=2)}")
            continue
        label = f"partial, {len(TASKS) - len(missing)} of {len(TASKS)} tasks: mean"
        means = _columns([score and score.partial for score in scores], digits=1)
        lines.append(f"  {label:<30}{means}  no score, missing {' '.join(missing)}")
    return lines


def _columns(values: list[float | None], *, digits: int) -> str:
    """The columns of both scales; `-` where there is no value."""
    paper, board = ("-" if value is None else f"{value:.{digits}f}" for value in values)
    return f"{paper:>10}{board:>13}"


def _term(task: str, value: Value, scale: Any) -> float | None:
    metric = next((metric for metric in counted_metrics(task, scale) if metric.name == value.name), None)
    return None if metric is None else normalised(value, metric, scale)


def as_data(rows: list[Row], unfinished: list[Path]) -> dict[str, Any]:
    """The table as plain data. A score is null where tasks are missing."""
    return {
        "rows": [
            {
                "name": row.name,
                "kind": row.kind,
                "sha256": row.sha256,
                "params_millions": row.params_millions,
                "notes": row.notes,
                "protocols": {task: result.protocol for task, result in row.results.items()},
                "metrics": {
                    task: {
                        value.name: {
                            "percent": value.percent,
                            **{scale: _term(task, value, scale) for scale in SCALES},
                        }
                        for value in result.metrics
                    }
                    for task, result in row.results.items()
                },
                "scores": {
                    scale: {
                        "score": score.total,
                        "partial_mean": score.partial,
                        "missing": list(score.missing),
                    }
                    for scale, score in row.scores.items()
                },
            }
            for row in rows
        ],
        "unfinished": [str(folder) for folder in unfinished],
    }


def as_csv(rows: list[Row]) -> str:
    """One line per upstream; metrics in percent, empty where they are missing."""
    columns = [(task.name, metric.name) for task in TASKS.values() for metric in task.metrics]
    columns.insert(columns.index(("asr", "wer")) + 1, ("asr", "cer"))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    scores = [f"score_{scale}" for scale in SCALES]
    names = [f"{task}_{metric}" for task, metric in columns]
    writer.writerow(["upstream", "sha256", *names, *scores, "missing", "notes", "kind", "params_millions", "not_official"])
    for row in rows:
        values = [row.results[task].values().get(metric) if task in row.results else None for task, metric in columns]
        writer.writerow(
            [row.name, row.sha256 or ""]
            + ["" if value is None else f"{value.percent:.6g}" for value in values]
            + ["" if (total := row.scores[scale].total) is None else f"{total:.2f}" for scale in SCALES]
            + [" ".join(row.scores["leaderboard"].missing), "; ".join(row.notes), row.kind]
            + ["" if row.params_millions is None else f"{row.params_millions:.6g}"]
            + [" ".join(task for task, result in row.results.items() if result.protocol not in ("official", row.kind))]
        )
    return text.getvalue()


def write_table(root: Path, rows: list[Row], unfinished: list[Path]) -> list[Path]:
    """Write ``superb_score.json`` and ``superb_score.csv`` into a folder and return their paths."""
    paths = [root / "superb_score.json", root / "superb_score.csv"]
    write_json(paths[0], as_data(rows, unfinished))
    temporary = root / f".{paths[1].name}.{os.getpid()}"
    try:
        temporary.write_text(as_csv(rows), encoding="utf-8")
        os.replace(temporary, paths[1])
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{paths[1]}: cannot be written ({error}).") from error
    return paths


def table1_text() -> str:
    """The paper's Table 1: the score it prints beside the one its own metrics give."""
    lines = [f"{'Wang et al. 2023, Table 1':<28}{'printed':>9}{'recomputed':>12}  (paper scale)"]
    for row in PUBLISHED:
        if row.table1_score is None:
            continue
        recomputed = superb_score(published_values(row), "paper").total
        # Printed with two digits, from metrics of two digits.
        agrees = abs(recomputed - row.table1_score) <= 0.01
        verdict = "" if agrees else "  does not agree: the row is inconsistent in itself"
        lines.append(f"{row.model:<28}{row.table1_score:>9.2f}{recomputed:>12.2f}{verdict}")
    return "\n".join(lines)
