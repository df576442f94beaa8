"""What a scored model costs besides parameters: multiply-accumulates (MACs) and time, each from where it is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from s3prl_pruned.config import UserError

SECONDS = 5.0
"""Of audio, at which MACs are counted and times are taken."""
LEADERBOARD_WAVLM_BASE = 1670.0
"""WavLM Base's MACs as superbbenchmark.org shows them, 10^9."""


@dataclass(frozen=True, kw_only=True)
class EncoderCosts:
    """Of one model. None where it is not known: nothing is estimated."""

    counted_macs: float | None = None
    """MACs per second of audio, of `SECONDS` at once; counted of its exact structure."""
    printed_macs: float | None = None
    """MACs per second of audio, as its authors print them (of about 1 s at once)."""
    leaderboard_macs: float | None = None
    """MACs on superbbenchmark.org's own audio."""
    seconds: float | None = None
    """Measured time of one call with `SECONDS` of audio."""
    noisy: bool = False
    """Whether the machine was too noisy for this time."""

    def validate(self) -> None:
        """Raise UserError for what cannot be."""
        wrong = {name: value for name, value in asdict(self).items() if value is not None and not 0 <= value < 1e30}
        if wrong:
            raise UserError(f"costs must be finite and not negative, but are {wrong}.")

    @property
    def macs_share(self) -> float | None:
        """MACs over WavLM Base's, both by the same counter; the leaderboard's where the structure is not known.

        The two counters agree: LightHuBERT small has 0.516 of HuBERT Base's by both.
        """
        if self.counted_macs is not None:
            return self.counted_macs / counted_macs("wavlm_base")
        return None if self.leaderboard_macs is None else self.leaderboard_macs / (1e9 * LEADERBOARD_WAVLM_BASE)


@cache
def counted_macs(structure: str) -> float:
    """MACs per second of audio of a published structure (`models.peers.shape_of_published`), `SECONDS` at once."""
    from s3prl_pruned.models.peers import shape_of_published
    from s3prl_pruned.sparsity.counts import macs

    return sum(macs(*shape_of_published(structure), round(16_000 * SECONDS)).values()) / SECONDS


def timed(costs: EncoderCosts, row: Mapping[str, Any]) -> EncoderCosts:
    """With what a row of a timing document measured (`tools/timing.py`), of `SECONDS` of audio.

    Args:
        costs: what is known of the model.
        row: of this model. Its MACs stand in where the structure is not known otherwise.
    """
    counted = costs.counted_macs
    if counted is None and row.get("macs") is not None:
        counted = row["macs"] / SECONDS
    return replace(costs, seconds=row["seconds"], noisy=bool(row["noisy"]), counted_macs=counted)
