"""Scored models side by side, one line each: as aligned text, or in Markdown."""

from __future__ import annotations

from pathlib import Path

from s3prl_pruned.superb.catalogue import TASKS
from s3prl_pruned.superb.results.collect import UNKNOWN_PROTOCOL
from s3prl_pruned.superb.score.costs import SECONDS
from s3prl_pruned.superb.score.score import SCALES
from s3prl_pruned.superb.score.scored_models import ScoredModel
from s3prl_pruned.superb.score.table import unfinished_lines, why_not_on_scale
from s3prl_pruned.tables import Column, Table, escape_markdown

LEGEND = (
    "Percent, QbE's MTWV x 100. Lower is better for PR (PER), ASR (WER), SV (EER), SD (DER) and SF's CER. "
    "A score needs all ten tasks, one of them official. (p) published, (g) given by hand; * not the official settings; "
    "# a checkpoint picked by hand; ? read from s3prl's own run, settings unknown."
)
_MACS = (
    "G MACs: multiply-accumulates on superbbenchmark.org's own audio, as it or the paper shows them; c counted by its "
    "rule, of the exact structure. G MACs/s: per second of audio, as printed by the authors."
)
_TIME = f"RTF: measured seconds per second of audio, {SECONDS:g} s at once; ! a noisy machine."


def as_wide_text(models: list[ScoredModel], unfinished: list[Path]) -> str:
    """The models in aligned columns of text."""
    return "\n".join([_table(models).text(), "", *_legend(models), *_footnotes(models), *unfinished_lines(unfinished)])


def as_markdown(models: list[ScoredModel], unfinished: list[Path]) -> str:
    """A Markdown table, and a list of notes."""
    notes = [f"- {escape_markdown(note)}" for note in (*_footnotes(models), *unfinished_lines(unfinished))]
    legend = [escape_markdown(line) for line in _legend(models)]
    return "\n".join([_table(models).markdown(), "", *legend, *(["", *notes] if notes else [])])


def _legend(models: list[ScoredModel]) -> list[str]:
    shown = {column.key for column in _costs(models)}
    return [LEGEND, *([_MACS] if shown & {"macs", "printed"} else []), *([_TIME] if "rtf" in shown else [])]


def _table(models: list[ScoredModel]) -> Table:
    """The table; a column without any number is left out."""
    costs = _costs(models)
    tasks = ["SF F1/CER" if task.name == "sf" else task.label for task in TASKS.values()]
    columns: list[Column | str] = ["model", Column("params M", align="right"), *costs]
    columns += [Column(title, align="right") for title in (*tasks, *(f"{scale} scale" for scale in SCALES))]
    sourced = any(model.source for model in models)
    rows = []
    for model in models:
        name, size, *numbers = _cells(model)
        shown = _cost_cells(model)
        rows.append([name, size, *(shown[column.key] for column in costs), *numbers, *([model.source] * sourced)])
    return Table([*columns, *(["source"] * sourced)], rows)


def _costs(models: list[ScoredModel]) -> list[Column]:
    """The columns of costs that at least one model has."""
    cells = [_cost_cells(model) for model in models]
    titles = {"macs": "G MACs", "printed": "G MACs/s", "rtf": "RTF"}
    return [
        Column(key, title, align="right") for key, title in titles.items() if any(one[key] is not None for one in cells)
    ]


def _cost_cells(model: ScoredModel) -> dict[str, str | None]:
    costs = model.costs
    macs, printed, time = costs.macs, costs.printed_macs_per_second, costs.seconds
    return {
        "macs": None if macs is None else f"{macs / 1e9:.1f}" + " c" * costs.macs_counted,
        "printed": None if printed is None else f"{printed / 1e9:g}",
        "rtf": None if time is None else f"{time / SECONDS:.4f}" + "!" * costs.noisy,
    }


def _cells(model: ScoredModel) -> list[str]:
    mark = {"published": " (p)", "given": " (g)"}.get(model.kind, "")
    scores = [model.scores[scale].total for scale in SCALES]
    marks = "".join(sorted(set("".join(_marks(model).values()))))
    return [
        model.name + mark,
        "-" if model.params_millions is None else f"{model.params_millions:.2f}",
        *(_metrics(model, task) for task in TASKS),
        *("-" if score is None else f"{score:.1f}{marks}" for score in scores),
    ]


def _marks(model: ScoredModel) -> dict[str, str]:
    """The marks of the numbers by task; a score has the marks of all tasks."""
    marks = {UNKNOWN_PROTOCOL: "?", "official": "", model.kind: ""}
    return {task: marks.get(result.protocol, "*") + "#" * result.by_hand for task, result in model.results.items()}


def _metrics(model: ScoredModel, task: str) -> str:
    if task not in model.results:
        return "-"
    given = model.results[task].values()
    numbers = [f"{given[metric.name].percent:.2f}" if metric.name in given else "-" for metric in TASKS[task].metrics]
    return "/".join(numbers) + _marks(model)[task]


def _footnotes(models: list[ScoredModel]) -> list[str]:
    """Every note once, with the models to which it applies."""
    said: dict[str, list[str]] = {}
    for model in models:
        missing = list(dict.fromkeys(task for scale in SCALES for task in model.scores[scale].missing))
        reason = f"no score, missing {' '.join(missing)}" if missing else None
        for note in filter(None, [*model.notes, reason if model.on_scale else why_not_on_scale(model)]):
            said.setdefault(note, []).append(model.name)
    return [
        f"{'every row' if len(names) == len(models) > 1 else ', '.join(names)}: {note}" for note, names in said.items()
    ]
