"""The score table: metrics, normalised values and scores, in detail for a screen, as JSON and as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s3prl_pruned.superb.catalogue import PUBLISHED, TASKS, Value
from s3prl_pruned.superb.results.result import write_json, write_text
from s3prl_pruned.superb.score.score import SCALES, Scale, agrees_with_table1, counted_metrics, normalised, paper_score
from s3prl_pruned.superb.score.scored_models import ScoredModel
from s3prl_pruned.tables import Column, Table

_COLUMNS: list[Column | str] = [
    Column("task and metric"),
    Column("percent", align="right"),
    Column("paper", align="right"),
    Column("leaderboard", align="right"),
    "",
]


def as_text(models: list[ScoredModel], unfinished: list[Path]) -> str:
    """The table for a screen, in detail: what holds of every model is said once, above them."""
    shared = (
        [note for note in models[0].notes if all(note in model.notes for model in models)] if len(models) > 1 else []
    )
    lines = [f"! every row: {note}" for note in shared]
    rows = [_metric_rows(model) + _score_rows(model) for model in models]
    header, *table = Table(_COLUMNS, [row for of_model in rows for row in of_model]).text().splitlines()
    if models:
        lines.append(f"  {header}")
    written = iter(table)
    for model, of_model in zip(models, rows, strict=True):
        lines.append(f"{model.name}  ({'SHA-256 ' + model.sha256[:16] if model.sha256 else 'no model hash'})")
        lines += [f"  ! {note}" for note in model.notes if note not in shared]
        lines += [f"  {next(written)}" for _ in of_model]
    lines += unfinished_lines(unfinished)
    return "\n".join(lines)


def unfinished_lines(unfinished: list[Path]) -> list[str]:
    """What stands below a table."""
    return [f"unfinished, not counted: {folder}" for folder in unfinished]


def _metric_rows(model: ScoredModel) -> list[list[Any]]:
    return [
        [f"{task} {value.name}", _number(value.percent, 2), *(_number(_term(task, value, s), 1) for s in SCALES), ""]
        for task, result in model.results.items()
        for value in result.metrics
    ]


def _score_rows(model: ScoredModel) -> list[list[Any]]:
    """One row, or two where the scales lack different tasks."""
    rows = []
    for missing in dict.fromkeys(model.scores[scale].missing for scale in SCALES):
        scores = [model.scores[scale] if model.scores[scale].missing == missing else None for scale in SCALES]
        if not missing:
            rows.append(["score", "", *(_number(score.total if score else None, 2) for score in scores), ""])
            continue
        label = f"partial, {len(TASKS) - len(missing)} of {len(TASKS)} tasks: mean"
        means = (_number(score.partial if score else None, 1) for score in scores)
        rows.append([label, "", *means, f"no score, missing {' '.join(missing)}"])
    return rows


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _term(task: str, value: Value, scale: Scale) -> float | None:
    metric = next((metric for metric in counted_metrics(task, scale) if metric.name == value.name), None)
    return None if metric is None else normalised(value, metric, scale)


def as_data(models: list[ScoredModel], unfinished: list[Path]) -> dict[str, Any]:
    """The table as plain data. A score is null where tasks are missing."""
    return {
        "rows": [
            {
                "name": model.name,
                "kind": model.kind,
                "sha256": model.sha256,
                "params_millions": model.params_millions,
                "notes": model.notes,
                "protocols": {task: result.protocol for task, result in model.results.items()},
                "metrics": {
                    task: {
                        value.name: {
                            "percent": value.percent,
                            **{scale: _term(task, value, scale) for scale in SCALES},
                        }
                        for value in result.metrics
                    }
                    for task, result in model.results.items()
                },
                "scores": {
                    scale: {
                        "score": score.total,
                        "partial_mean": score.partial,
                        "missing": list(score.missing),
                    }
                    for scale, score in model.scores.items()
                },
            }
            for model in models
        ],
        "unfinished": [str(folder) for folder in unfinished],
    }


def as_csv(models: list[ScoredModel]) -> str:
    """One line per model; metrics in percent, empty where they are missing."""
    metrics = [(task.name, metric.name) for task in TASKS.values() for metric in task.metrics]
    metrics.insert(metrics.index(("asr", "wer")) + 1, ("asr", "cer"))
    header = ["upstream", "sha256", *(f"{task}_{metric}" for task, metric in metrics)]
    header += [*(f"score_{scale}" for scale in SCALES), "missing", "notes", "kind", "params_millions", "not_official"]
    return Table(header, [_csv_line(model, metrics) for model in models]).csv()


def _csv_line(model: ScoredModel, metrics: list[tuple[str, str]]) -> list[str]:
    values = [model.results[task].values().get(name) if task in model.results else None for task, name in metrics]
    totals = [model.scores[scale].total for scale in SCALES]
    not_official = [task for task, result in model.results.items() if result.protocol not in ("official", model.kind)]
    return [
        model.name,
        model.sha256 or "",
        *("" if value is None else f"{value.percent:.6g}" for value in values),
        *("" if total is None else f"{total:.2f}" for total in totals),
        " ".join(model.scores["leaderboard"].missing),
        "; ".join(model.notes),
        model.kind,
        "" if model.params_millions is None else f"{model.params_millions:.6g}",
        " ".join(not_official),
    ]


def write_table(root: Path, models: list[ScoredModel], unfinished: list[Path]) -> list[Path]:
    """Write ``superb_score.json`` and ``superb_score.csv`` into a folder and return their paths."""
    paths = [root / "superb_score.json", root / "superb_score.csv"]
    write_json(paths[0], as_data(models, unfinished))
    write_text(paths[1], as_csv(models))
    return paths


def table1_text() -> str:
    """The paper's Table 1: the score it prints beside the one its own metrics give."""
    columns: list[Column | str] = [
        "Wang et al. 2023, Table 1",
        Column("printed", align="right", show="{:.2f}"),
        Column("recomputed", align="right", show="{:.2f}"),
        "(paper scale)",
    ]
    rows = []
    for model in PUBLISHED:
        if model.table1_score is not None:
            verdict = "" if agrees_with_table1(model) else "does not agree: the row is inconsistent in itself"
            rows.append([model.model, model.table1_score, paper_score(model), verdict])
    return Table(columns, rows).text()
