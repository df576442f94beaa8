"""The costs of a scored model besides parameters: multiply-accumulates (MACs) and time, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from s3prl_pruned.config import UserError

SECONDS = 5.0
"""Seconds of audio of the timed calls."""


@dataclass(frozen=True, kw_only=True)
class EncoderCosts:
    """The costs of one model. None where unknown: nothing is estimated."""

    macs: float | None = None
    """MACs on the audio of superbbenchmark.org (`sparsity/leaderboard.py`)."""
    macs_counted: bool = False
    """Whether we counted `macs`, of the exact structure and by the leaderboard's rule; else they are printed there or
    in the model's paper."""
    printed_macs_per_second: float | None = None
    """MACs per second of audio as the authors print them; their counters and lengths of audio differ."""
    seconds: float | None = None
    """Measured time in seconds of one call with `SECONDS` of audio."""
    noisy: bool = False
    """Whether the machine was too noisy for this time."""

    def validate(self) -> None:
        """Raise UserError for impossible values."""
        wrong = {name: value for name, value in asdict(self).items() if value is not None and not 0 <= value < 1e30}
        if wrong:
            raise UserError(f"costs must be finite and not negative, but are {wrong}.")


@cache
def counted_macs(structure: str) -> int:
    """MACs of a published structure (`models.peers.shape_of_published`) on the leaderboard's audio, by its rule."""
    from s3prl_pruned.models.peers import shape_of_published
    from s3prl_pruned.sparsity.leaderboard import leaderboard_macs

    return leaderboard_macs(*shape_of_published(structure))


def timed(costs: EncoderCosts, row: Mapping[str, Any]) -> EncoderCosts:
    """Add the measurements of a row of a timing document (`tools/timing.py`) with `SECONDS` of audio.

    Args:
        costs: the known costs of the model.
        row: the model's row. Its MACs are used if none are known; documents of earlier versions have none.

    Raises:
        UserError: if a value of the row is impossible.
    """
    counted = row.get("leaderboard_macs")
    if costs.macs is None and counted is not None:
        costs = replace(costs, macs=float(counted), macs_counted=True)
    measured = replace(costs, seconds=row["seconds"], noisy=bool(row["noisy"]))
    measured.validate()
    return measured
