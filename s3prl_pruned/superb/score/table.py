"""The score table: metrics, normalised values and scores, as text, JSON and CSV."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from s3prl_pruned.superb.catalogue import TASKS, Value
from s3prl_pruned.superb.results.result import write_json, write_text
from s3prl_pruned.superb.score import mini_score
from s3prl_pruned.superb.score.costs import EncoderCosts
from s3prl_pruned.superb.score.published import PUBLISHED
from s3prl_pruned.superb.score.score import SCALES, Scale, agrees_with_table1, counted_metrics, normalised, paper_score
from s3prl_pruned.superb.score.scored_models import ScoredModel, doubts
from s3prl_pruned.tables import Column, Table

_NOT_ON_SCALE = "no score: none of its tasks is official"


def why_not_on_scale(model: ScoredModel) -> str:
    """The text in place of scores for a model that is not ``on_scale``."""
    return _NOT_ON_SCALE if model.results else "no score: none of its tasks is published"


_COLUMNS: list[Column | str] = [
    Column("task and metric"),
    Column("percent", align="right"),
    Column("paper", align="right"),
    Column("leaderboard", align="right"),
    "",
]


def as_text(models: list[ScoredModel], unfinished: list[Path]) -> str:
    """The detailed table as text: notes that hold for every model are printed once, above the models."""
    if models and not any(model.on_scale for model in models):
        return "\n".join([*_compared(models), *unfinished_lines(unfinished)])
    shared = _shared_notes(models)
    lines = [f"! every row: {note}" for note in shared]
    rows = [_metric_rows(model) + _score_rows(model) for model in models]
    header, *table = Table(_COLUMNS, [row for of_model in rows for row in of_model]).text().splitlines()
    if models:
        lines.append(f"  {header}")
    written = iter(table)
    for model, of_model in zip(models, rows, strict=True):
        lines += _head(model, shared)
        lines += [f"  {next(written)}" for _ in of_model]
    lines += unfinished_lines(unfinished)
    return "\n".join(lines)


def _compared(models: list[ScoredModel]) -> list[str]:
    """Models none of which is on SUPERB's scales, side by side, with the mini-score if there are FBANK and teacher."""
    shared = _shared_notes(models)
    lines = [f"! every row: {note}" for note in shared]
    for model in models:
        lines += _head(model, shared)
    names = dict.fromkeys(
        (task, metric) for model in models for task, r in model.results.items() for metric in r.values()
    )
    rows = [
        [f"{task} {metric}", *(_percent(model, task, metric) for model in models)]
        for task, metric in sorted(names, key=lambda name: list(TASKS).index(name[0]))
    ]
    columns = [Column("task and metric, percent"), *(Column(model.name, align="right") for model in models)]
    lines += ["", Table(columns, rows).text(), ""]
    lines.append("Nothing here is official, so there is no SUPERB score: the columns compare with one another only.")
    if ends := mini_score.ends_of(models):
        lines += ["", mini_score.as_text(mini_score.mini_scores(models, *ends)[0], [], *ends)]
    return lines


def _percent(model: ScoredModel, task: str, metric: str) -> str | None:
    value = model.results[task].values().get(metric) if task in model.results else None
    return None if value is None else _number(value.percent, 2)


def _head(model: ScoredModel, shared: list[str]) -> list[str]:
    """A model's name and the notes on it alone."""
    name = f"{model.name}  ({'SHA-256 ' + model.sha256[:16] if model.sha256 else 'no model hash'})"
    return [name, *(f"  ! {note}" for note in model.notes if note not in shared)]


def _shared_notes(models: list[ScoredModel]) -> list[str]:
    """The notes that hold for every one of several models."""
    if len(models) < 2:
        return []
    return [note for note in models[0].notes if all(note in model.notes for model in models)]


def unfinished_lines(unfinished: list[Path]) -> list[str]:
    """The lines below a table."""
    return [f"unfinished, not counted: {folder}" for folder in unfinished]


def _metric_rows(model: ScoredModel) -> list[list[Any]]:
    return [
        [
            f"{task} {value.name}",
            _number(value.percent, 2),
            *(_number(_term(model, task, value, scale), 1) for scale in SCALES),
            "picked by hand" if result.by_hand else "",
        ]
        for task, result in model.results.items()
        for value in result.metrics
    ]


def _score_rows(model: ScoredModel) -> list[list[Any]]:
    """One row, or two where the scales lack different tasks."""
    if not model.on_scale:
        return [["", "", None, None, why_not_on_scale(model)]]
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


def _term(model: ScoredModel, task: str, value: Value, scale: Scale) -> float | None:
    if not model.on_scale or doubts(model.results[task]):
        return None
    metric = next((metric for metric in counted_metrics(task, scale) if metric.name == value.name), None)
    return None if metric is None else normalised(value, metric, scale)


def as_data(models: list[ScoredModel], unfinished: list[Path]) -> dict[str, Any]:
    """The table as plain data. A score is None where tasks are missing."""
    return {
        "rows": [
            {
                "name": model.name,
                "kind": model.kind,
                "sha256": model.sha256,
                "params_millions": model.params_millions,
                "source": model.source,
                "costs": {name: value for name, value in asdict(model.costs).items() if value not in (None, False)},
                "structure": model.structure,
                "notes": model.notes,
                "protocols": {task: result.protocol for task, result in model.results.items()},
                "by_hand": [task for task, result in model.results.items() if result.by_hand],
                "metrics": {
                    task: {
                        value.name: {
                            "percent": value.percent,
                            **{scale: _term(model, task, value, scale) for scale in SCALES},
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
    """The table as CSV, one line per model; metrics in percent, empty where missing."""
    metrics = [(task.name, metric.name) for task in TASKS.values() for metric in task.metrics]
    metrics.insert(metrics.index(("asr", "wer")) + 1, ("asr", "cer"))
    header = ["upstream", "sha256", *(f"{task}_{metric}" for task, metric in metrics)]
    header += [*(f"score_{scale}" for scale in SCALES), "missing", "notes", "kind", "params_millions", "not_official"]
    header += ["by_hand", "source", *EncoderCosts.__dataclass_fields__]
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
        " ".join(task for task, result in model.results.items() if result.by_hand),
        model.source or "",
        *("" if value is None else f"{value:.7g}" for value in asdict(model.costs).values()),
    ]


def write_table(root: Path, models: list[ScoredModel], unfinished: list[Path]) -> list[Path]:
    """Write ``superb_score.json`` and ``superb_score.csv`` into a folder and return their paths."""
    paths = [root / "superb_score.json", root / "superb_score.csv"]
    write_json(paths[0], as_data(models, unfinished))
    write_text(paths[1], as_csv(models))
    return paths


def table1_text() -> str:
    """The paper's Table 1: each printed score beside the score of its own metrics."""
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
