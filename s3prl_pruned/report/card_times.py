"""Write measured times of a trade-off document into the model cards of its exports."""

from pathlib import Path
from typing import Any

from s3prl_pruned.checkpoint import write_text
from s3prl_pruned.formats.card import with_times
from s3prl_pruned.formats.folder import CARD, model_hash
from s3prl_pruned.report.tradeoff_columns import COSTS, SPEED, models_of
from s3prl_pruned.tables import Column, Table


def write_times(data: dict) -> list[Path]:
    """Replace the section on time in the card of every export with a time in the document.

    Weights and configuration stay as they are. An export that is missing, or has other weights now, is skipped.

    Args:
        data: a trade-off document.

    Returns:
        The cards.

    Raises:
        UserError: a card cannot be written.
    """
    written = []
    for model in models_of(data):
        card = Path(model["path"] or "", CARD)
        if model["path"] is None or model["seconds"] is None or not card.is_file():
            continue
        if model_hash(model["path"]) != model["sha256"]:
            continue
        write_text(card, with_times(card.read_text(encoding="utf-8"), times_of(data, model)))
        written.append(card)
    return written


def times_of(data: dict, model: dict[str, Any]) -> str:
    """A model's time as a card shows it: a table with one row, and the conditions of the measurement.

    Args:
        data: the document.
        model: an entry of `models_of`.
    """
    timing, seconds = data["timing"], COSTS["seconds"]
    threads, dtype = timing.get("threads"), timing.get("dtype", "float32")
    columns: list[Column | str] = ["audio", seconds.header, f"speed against {timing['baseline']}"]
    row = [f"{data['seconds_of_audio']:g} s, one utterance", seconds.text(model), SPEED.text(model)]
    about = (
        f"Measured on {timing.get('machine')}, {threads} thread{'s' * (threads != 1)}, {dtype}, "
        f"{timing.get('date', '')[:10]}. After ± half the interquartile range."
    )
    noisy = " The machine was too noisy for reliable times." * bool(model["noisy"])
    return f"{Table(columns, [row]).markdown()}\n\n{about}{noisy}"
