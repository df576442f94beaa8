"""Models with their results and scores: measured here, published, hand-written, or read from a saved table."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.superb.catalogue import TASKS, Value, find_task
from s3prl_pruned.superb.results.collect import UNKNOWN_PROTOCOL, finished_runs
from s3prl_pruned.superb.results.given import read_given
from s3prl_pruned.superb.results.result import Checkpoint, Result, Upstream, read_json
from s3prl_pruned.superb.results.s3prl_runs.found import NO_REFERENCES, References
from s3prl_pruned.superb.score.costs import EncoderCosts, counted_macs
from s3prl_pruned.superb.score.published import PUBLISHED, PublishedModel
from s3prl_pruned.superb.score.score import (
    SCALES,
    Scale,
    SuperbScore,
    agrees_with_table1,
    published_values,
    superb_score,
)

Kind = Literal["measured", "published", "given"]
KINDS = get_args(Kind)

ON_SCALE = ("official", UNKNOWN_PROTOCOL, *KINDS)
"""Protocols to which SUPERB's scales apply. A row with at least one such result has scores, with a note if it has other
results too; a row without any has no scores."""


@dataclass(frozen=True, kw_only=True)
class ScoredModel:
    """One model, its results by task, its score on both scales: a row of the score table."""

    name: str
    """The name of the folder, which is the upstream's unless set by ``-n``; for other kinds, of the model."""
    sha256: str | None
    results: dict[str, Result]
    scores: dict[Scale, SuperbScore]
    notes: list[str] = field(default_factory=list)
    """Notes to show beside the numbers: the teacher, the protocol, the source."""
    kind: Kind = "measured"
    """Measured: read from run directories; or published, or given in a hand-written file: not checked by us."""
    params_millions: float | None = None
    """Parameters of the upstream in millions. None where the results do not say."""
    source: str | None = None
    """Of a published model: the source of its numbers."""
    costs: EncoderCosts = field(default_factory=EncoderCosts)
    """The model's MACs and time, where known."""
    structure: str | None = None
    """Of a published model: the name of its structure (`PublishedModel.structure`)."""

    @property
    def on_scale(self) -> bool:
        """Whether SUPERB's scales apply to this row."""
        return all(score.applies for score in self.scores.values())


def measured_models(root: Path, references: References = NO_REFERENCES) -> tuple[list[ScoredModel], list[Path]]:
    """All results below a folder (see ``collect.finished_runs``).

    Args:
        root: such as ``results/``.
        references: where the references for scoring s3prl's QbE and SD are, if s3prl's settings do not say.

    Returns:
        Models by name, and the folders of unfinished runs.

    Raises:
        UserError: on unreadable or impossible results, or if results under one name are of several models.
    """
    runs, unfinished = finished_runs(root, references)
    return [_measured_model(name, results) for name, results in sorted(runs.items())], unfinished


def published_models() -> list[ScoredModel]:
    """The published models shown beside ours (``published.PUBLISHED``)."""
    models = []
    for published in PUBLISHED:
        notes = [published.note] if published.note else []
        if published.table1_score is not None and not agrees_with_table1(published):
            notes.append(
                f"printed with {published.table1_score:.2f} on the paper's scale, which its own metrics do not give"
            )
        metrics = {task: list(values.values()) for task, values in published_values(published).items()}
        model = _unchecked_model(published.model, metrics, "published", notes, published.params_millions)
        models.append(
            replace(model, source=published.source, costs=_published_costs(published), structure=published.structure)
        )
    return models


def _published_costs(published: PublishedModel) -> EncoderCosts:
    per_second, shown = published.macs_per_second, published.leaderboard_macs
    printed = None if per_second is None else 1e9 * per_second
    if shown is None and published.structure is not None:
        macs = float(counted_macs(published.structure))
        return EncoderCosts(macs=macs, macs_counted=True, printed_macs_per_second=printed)
    return EncoderCosts(macs=None if shown is None else 1e9 * shown, printed_macs_per_second=printed)


def given_models(path: Path) -> list[ScoredModel]:
    """The models of a hand-written file (see ``results/given.py``)."""
    models = []
    for given in read_given(path):
        notes = [f"given in {path.name}" + (f": {given.source}" if given.source else "")]
        models.append(_unchecked_model(given.model, given.metrics, "given", notes, given.params_millions))
    return models


def saved_models(path: Path) -> tuple[list[ScoredModel], list[Path]]:
    """The models of a table saved as JSON; scores are recomputed from its metrics.

    Returns:
        Models in the file's order, and the folders of unfinished runs.

    Raises:
        UserError: if the file is no such table, or holds an impossible value.
    """
    data = read_json(path)
    try:
        models = [_saved_model(model, str(path)) for model in data["rows"]]
        return models, [Path(folder) for folder in data["unfinished"]]
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path}: must be a table that superb_score.py wrote as JSON, but is not ({reason})."
        ) from error


def scores_of(results: list[Result]) -> dict[Scale, SuperbScore]:
    """The scores of one model, by scale; a task with a doubtful value counts as missing."""
    values = {result.task: result.values() for result in results if not doubts(result)}
    applies = any(result.protocol in ON_SCALE for result in results)
    return {scale: replace(superb_score(values, scale), applies=applies) for scale in SCALES}


def doubts(result: Result) -> list[str]:
    """The implausible values among a result's metrics, in words."""
    values = result.values()
    metrics = [metric for metric in find_task(result.task).metrics if metric.name in values]
    return [doubt for metric in metrics if (doubt := metric.doubt(values[metric.name]))]


def _measured_model(name: str, results: list[Result]) -> ScoredModel:
    # s3prl's own directories do not say which model they are of, so they contradict nothing.
    ours = [result for result in results if result.protocol != UNKNOWN_PROTOCOL]
    _refuse_several_models(name, ours)
    sizes = [result.upstream.num_parameters for result in results if result.upstream.num_parameters]
    return ScoredModel(
        name=name,
        sha256=next((result.upstream.sha256 for result in ours), None),
        results={result.task: result for result in results},
        scores=scores_of(results),
        notes=_notes(results),
        params_millions=sizes[0] / 1e6 if sizes else None,
    )


def _refuse_several_models(name: str, results: list[Result]) -> None:
    """A row is one model: one hash, or one name where there are no weights; and one set of feature options."""
    models = {result.upstream.sha256 or f"no weights ({result.upstream.name})" for result in results}
    options = {tuple(result.upstream.settings) for result in results if result.upstream.settings is not None}
    if len(models) > 1 or len(options) > 1:
        listing = "; ".join(f"{result.task}: {result.upstream.described()}" for result in results)
        raise UserError(
            f"{name}: one row must be one model, but its results are of {max(len(models), len(options))} ({listing}). "
            "Run the others again with this model, or under another name (-n)."
        )


def _notes(results: list[Result]) -> list[str]:
    notes = [result.upstream.teacher_note for result in results if result.upstream.teacher_note]
    names = dict.fromkeys(re.sub("_(local|url)$", "", result.upstream.name) for result in results)
    if len(names) > 1 and all(result.upstream.sha256 for result in results):
        notes.append(f"of the same weights, but by several upstreams: {', '.join(names)}")
    for result in results:
        notes += [f"{result.task}: {doubt}, so it is not counted: is its unit right?" for doubt in doubts(result)]
        if result.by_hand:
            notes.append(f"{result.task}: of a checkpoint picked by hand, not by the benchmark's rule")
        if result.protocol == UNKNOWN_PROTOCOL:
            notes.append(f"{result.task}: {result.protocol_note}")
        elif result.protocol != "official":
            notes.append(f"{result.task}: {result.protocol} protocol, not comparable with SUPERB's numbers")
    return list(dict.fromkeys(notes))


def _unchecked_model(
    name: str, metrics: dict[str, list[Value]], kind: Kind, notes: list[str], params_millions: float | None
) -> ScoredModel:
    """A model without run directories."""
    results = [
        _result(task, metrics[task], protocol=kind, upstream=Upstream(name=name)) for task in TASKS if task in metrics
    ]
    return ScoredModel(
        name=name,
        sha256=None,
        results={result.task: result for result in results},
        scores=scores_of(results),
        notes=notes,
        kind=kind,
        params_millions=params_millions,
    )


def _saved_model(model: dict[str, Any], where: str) -> ScoredModel:
    name = model["name"]
    if model["kind"] not in KINDS:
        raise UserError(f"{where}: {name}: kind must be one of {', '.join(KINDS)}, but is {model['kind']!r}.")
    results = [_saved_result(model, task, f"{where}: {name}: {task}") for task in model["metrics"]]
    return ScoredModel(
        name=name,
        sha256=model["sha256"],
        results={result.task: result for result in results},
        scores=scores_of(results),
        notes=model["notes"],
        kind=model["kind"],
        params_millions=model["params_millions"],
        source=model.get("source"),
        costs=from_dict(EncoderCosts, model.get("costs", {}), f"{where}: {name}: costs"),
        structure=model.get("structure"),
    )


def _saved_result(model: dict[str, Any], task: str, where: str) -> Result:
    values = [
        {"name": name, "value": numbers["percent"], "unit": "percent"}
        for name, numbers in model["metrics"][task].items()
    ]
    upstream = Upstream(name=model["name"], sha256=model["sha256"])
    metrics = [from_dict(Value, value, where) for value in values]
    by_hand = task in model.get("by_hand", [])
    result = _result(task, metrics, protocol=model["protocols"][task], upstream=upstream, by_hand=by_hand)
    result.validate()
    return result


def _result(task: str, metrics: list[Value], *, protocol: str, upstream: Upstream, by_hand: bool = False) -> Result:
    """A result with metrics only."""
    return Result(
        task=task,
        split=find_task(task).test_split,
        num_utterances=0,
        metrics=metrics,
        printed_by_s3prl=[],
        protocol=protocol,
        upstream=upstream,
        checkpoint=Checkpoint(file="", step=0, rule="", by_hand=True) if by_hand else None,
    )
