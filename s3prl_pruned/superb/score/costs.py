"""What a scored model costs besides parameters: multiply-accumulates (MACs) and time, each from where it is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from s3prl_pruned.config import UserError

SECONDS = 5.0
"""Of audio, of which times are taken."""


@dataclass(frozen=True, kw_only=True)
class EncoderCosts:
    """Of one model. None where it is not known: nothing is estimated."""

    macs: float | None = None
    """MACs on the audio of superbbenchmark.org (`sparsity/leaderboard.py`)."""
    macs_counted: bool = False
    """Whether `macs` are counted by us, of the exact structure and by the leaderboard's rule; else they are printed
    there, or in the model's paper."""
    printed_macs_per_second: float | None = None
    """MACs per second of audio, as the authors print them, whose counters and lengths differ."""
    seconds: float | None = None
    """Measured time of one call with `SECONDS` of audio."""
    noisy: bool = False
    """Whether the machine was too noisy for this time."""

    def validate(self) -> None:
        """Raise UserError for what cannot be."""
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
    """With what a row of a timing document says (`tools/timing.py`), of `SECONDS` of audio.

    Args:
        costs: what is known of the model.
        row: of this model. Its MACs stand in where none are known; documents of before have none.

    Raises:
        UserError: a number of the row cannot be.
    """
    counted = row.get("leaderboard_macs")
    if costs.macs is None and counted is not None:
        costs = replace(costs, macs=float(counted), macs_counted=True)
    measured = replace(costs, seconds=row["seconds"], noisy=bool(row["noisy"]))
    measured.validate()
    return measured
