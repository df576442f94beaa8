"""Measured times beside scores: rows of a timing document (`tools/timing.py`), matched by hash or name."""

from dataclasses import replace
from typing import Any

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.score.costs import SECONDS, timed
from s3prl_pruned.superb.score.scored_models import ScoredModel


def with_times(models: list[ScoredModel], data: dict[str, Any], where: str) -> tuple[list[ScoredModel], list[str]]:
    """Fill in the time and MACs of every model that has a row in a timing document.

    Args:
        models: rows of the score table. Measured models are matched by the hash of their weights, or by name;
            published models by their structure, which is in documents made with `--peers`.
        data: the checked document.
        where: the document's name in messages.

    Returns:
        The models in their order, and notes on the times.

    Raises:
        UserError: if the document has no row with `SECONDS` of audio, one utterance at a time.
    """
    rows = [
        row
        for row in data["results"]
        if row.get("length_s") == SECONDS and row.get("batch") == 1 and not row.get("tf32")
    ]
    if not rows:
        raise UserError(
            f"{where}: must have times of {SECONDS:g} s of audio, one utterance at a time, but has none. Measure them: "
            f"tools/timing.py --lengths {SECONDS:g}"
        )
    found = [next((row for row in rows if _is_of(row, model)), None) for model in models]
    filled = [
        model if row is None else replace(model, costs=timed(model.costs, row))
        for model, row in zip(models, found, strict=True)
    ]
    own = [model.name for model, row in zip(models, found, strict=True) if row is None and model.kind != "published"]
    notes = [f"time: {measured_on(data)}"]
    if own:
        notes.append(f"the timing has no row of: {', '.join(own)}. Add them to its --models")
    if noisy := [model.name for model in filled if model.costs.noisy]:
        notes.append(f"TOO NOISY a machine when these were timed: {', '.join(noisy)}. Time them again on a quieter one")
    return filled, notes


def measured_on(data: dict[str, Any]) -> str:
    """The machine and setting of the times, in a few words."""
    threads = f"{data['threads']} thread{'s' * (data['threads'] != 1)}"
    return f"{data.get('machine', data['device'])}, {threads}, {data['dtype']}, {data.get('date', '')[:10]}"


def _is_of(row: dict[str, Any], model: ScoredModel) -> bool:
    if model.kind == "published":
        names = {f"peer:{model.structure}", f"ours:{model.structure}"} if model.structure else set()
        return row["name"] in names | ({"ours:dense"} if model.structure == "wavlm_base" else set())
    by_hash = model.sha256 is not None and model.sha256[:12] in str(row.get("weights"))
    return row["name"] == model.name or (by_hash and "+" not in row["name"])
