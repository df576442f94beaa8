"""What every exported model costs and what it is worth, joined by the hash of its weights into one document.

    timing.exports.measure (costs, and times in one run for all) + results (the score table's readers) -> JSON
    -> `tradeoff_report.py`: table, pictures, page

Costs: parameters, those that are not zero, multiply-accumulates, time. Qualities: whatever the results hold.
"""

import datetime
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.pretrain.asr.recognizer import TEST, read_test
from s3prl_pruned.report.pareto import beats
from s3prl_pruned.report.tradeoff_columns import (
    MINI_SCORE_LEAVES_OUT,
    NO_MINI_SCORE,
    NO_RESULT,
    NOT_TIMED,
    NOTHING_TIMED,
)
from s3prl_pruned.superb.catalogue import TASKS
from s3prl_pruned.superb.score.mini_score import mini_scores
from s3prl_pruned.superb.score.scored_models import ScoredModel
from s3prl_pruned.timing.document import versions
from s3prl_pruned.timing.exports import SECONDS, ModelCosts, run_of

COSTS = ("parameters", "nonzero_parameters", "macs", "seconds")


@dataclass(kw_only=True)
class Quality:
    """One figure of one model."""

    value: float
    better: str
    """`up` or `down`."""
    protocol: str
    """Only figures of one protocol are compared."""
    runs: int = 1
    """Of which `value` is the mean (rows of the same weights, such as seeds of a task)."""
    spread: float | None = None
    """Standard deviation of the runs around it; None for a single run."""


@dataclass(kw_only=True)
class TradeoffModel(ModelCosts):
    """One model: what it costs, and what it is worth."""

    qualities: dict[str, Quality] = field(default_factory=dict)
    pareto: list[str] = field(default_factory=list)
    """`quality/cost` pairs in which no other model is better or cheaper without being worse in the other."""


def gather(costs: Sequence[ModelCosts], scored_models: list[ScoredModel], *, timing: dict | None = None) -> dict:
    """Join what the models cost with what they are worth.

    Args:
        costs: of `timing.exports.measure`; times are filled in here.
        scored_models: of the score table; none where nothing was measured yet.
        timing: a document of `timing.exports.measure`, of `tools/timing.py`, or of an earlier report; its rows are
            found by hash, path or name. None: nothing was timed.

    Returns:
        The report's JSON document.

    Raises:
        UserError: results of one model and figure that are of several protocols.
    """
    models = [TradeoffModel(**vars(cost)) for cost in costs]
    for model in models:
        _add_own_test(model)
    notes = _add_times(models, timing) if timing else [NOTHING_TIMED]
    notes += _add_qualities(models, scored_models)
    mark_pareto(models)
    return {
        "entries": [asdict(model) for model in models],
        "seconds_of_audio": SECONDS,
        "timing": timing,
        "notes": notes,
        "versions": versions(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _add_own_test(model: TradeoffModel) -> None:
    """The word error rate of a model that `-u <family>_pruned_asr` made, with its own CTC head."""
    run = run_of(Path(model.path)) if model.path else None
    if run and (run / TEST).is_file():
        wer = 100 * read_test(run)["wer"]
        model.qualities["CTC wer"] = Quality(value=wer, better="down", protocol="fine-tuned whole")


def _add_times(models: list[TradeoffModel], timing: dict) -> list[str]:
    """Fill in times; a document of other lengths, or without some model, is told."""
    rows = [row for row in timing.get("results", []) if row.get("length_s") == SECONDS and row.get("batch") == 1]
    missing = []
    for model in models:
        found = [row for row in rows if _is_of(row, model)]
        if found:
            row = found[0]
            model.seconds, model.speed, model.noisy = row["seconds"], row["ratio"], row["noisy"]
            model.seconds_spread, model.speed_spread = row.get("seconds_spread"), row.get("ratio_spread")
        else:
            missing.append(model.name)
    notes = [
        f"time: {timing.get('machine')}, {timing.get('threads')} thread(s), {timing.get('date', '')[:10]}; "
        f"speed is against {timing['baseline']}"
    ]
    noisy = [model.name for model in models if model.noisy]
    if missing:
        notes.append(f"{NOT_TIMED}for {SECONDS:g} s of: {', '.join(missing)}")
    if noisy:
        notes.append(
            f"TOO NOISY a machine when these were timed: {', '.join(noisy)}. Time them again on a quieter one."
        )
    return notes


def _is_of(row: dict, model: TradeoffModel) -> bool:
    by_hash = model.sha256 is not None and model.sha256[:12] in str(row.get("weights"))
    by_path = model.path is not None and Path(row["name"]).resolve() == Path(model.path).resolve()
    return by_hash or by_path or row["name"] == model.name


def _add_qualities(models: list[TradeoffModel], scored_models: list[ScoredModel]) -> list[str]:
    """Fill in every metric, score and mini-score of the scored models that have a model's weights."""
    notes: list[str] = []
    by_hash: dict[str, list[ScoredModel]] = {}
    for scored in scored_models:
        if scored.sha256 is not None:
            by_hash.setdefault(scored.sha256, []).append(scored)
    minis = _mini_scores(scored_models, {model.sha256 for model in models if model.method == "dense"}, notes)
    for model in models:
        found: dict[str, list[Quality]] = {}
        for scored in by_hash.get(model.sha256 or "", []):
            for name, quality in _qualities(scored, minis.get(scored.name)).items():
                found.setdefault(name, []).append(quality)
        for name, several in found.items():
            protocols = sorted({quality.protocol for quality in several})
            if len(protocols) > 1:
                raise UserError(
                    f"{model.name}: its results of {name} are of several protocols, {protocols}. Leave one of them out."
                )
            values = [quality.value for quality in several]
            model.qualities[name] = Quality(
                value=statistics.fmean(values),
                better=several[0].better,
                protocol=protocols[0],
                runs=len(values),
                spread=statistics.stdev(values) if len(values) > 1 else None,
            )
    without = [model.name for model in models if not model.qualities]
    if any("CTC wer" in model.qualities for model in models):
        notes.append(
            "CTC wer: of recognisers fine-tuned as a whole, on their own test sets; not to be compared with frozen "
            "encoders' asr wer"
        )
    if without:
        notes.append(f"{NO_RESULT}{', '.join(without)}")
    return notes


def _qualities(scored: ScoredModel, mini: float | None) -> dict[str, Quality]:
    found = {}
    for task, result in scored.results.items():
        better = {metric.name: metric.better for metric in TASKS[task].metrics} | {"cer": "down"}
        for value in result.metrics:
            if value.name in better:
                found[f"{task} {value.name}"] = Quality(
                    value=value.percent, better=better[value.name], protocol=result.protocol
                )
    protocols = " and ".join(sorted({result.protocol for result in scored.results.values()}))
    for scale, score in scored.scores.items():
        if score.total is not None:
            found[f"score ({scale})"] = Quality(value=score.total, better="up", protocol=protocols)
    if mini is not None:
        found["mini-score"] = Quality(value=mini, better="up", protocol=protocols)
    return found


def _mini_scores(scored_models: list[ScoredModel], teachers: set[str | None], notes: list[str]) -> dict[str, float]:
    """By name, where FBANK and a teacher are among them."""
    low = [
        scored.name
        for scored in scored_models
        if any(result.upstream.name == "fbank" for result in scored.results.values())
    ]
    high = [scored.name for scored in scored_models if scored.sha256 is not None and scored.sha256 in teachers]
    if not low or not high:
        return {}
    try:
        scores, left_out = mini_scores(scored_models, low[0], high[0])
    except UserError as error:
        notes.append(f"{NO_MINI_SCORE}{error}")
        return {}
    notes += [
        f"mini-score: 0 is {low[0]}, 1000 is {high[0]}",
        *(f"{MINI_SCORE_LEAVES_OUT}{reason}" for reason in left_out),
    ]
    return {score.name: score.total for score in scores if score.total is not None}


def mark_pareto(models: list[TradeoffModel]) -> None:
    """Mark, for each quality and cost, the models that no other beats; among figures of one protocol."""
    for model in models:
        model.pareto = [
            f"{name}/{cost}"
            for name, quality in model.qualities.items()
            for cost in COSTS
            if getattr(model, cost) is not None and not any(_beats(other, model, name, cost) for other in models)
        ]


def _beats(other: TradeoffModel, model: TradeoffModel, name: str, cost: str) -> bool:
    """Whether another model is no worse and no dearer, and one of the two better."""
    theirs, ours = other.qualities.get(name), model.qualities[name]
    if theirs is None or theirs.protocol != ours.protocol or getattr(other, cost) is None:
        return False
    sign = 1 if ours.better == "up" else -1
    return beats((getattr(other, cost), sign * theirs.value), (getattr(model, cost), sign * ours.value))
