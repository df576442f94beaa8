"""What is found in a run directory of s3prl, what it may lack, and what the user can point to in its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.superb.catalogue import Value

TOLERANCE = 1e-4
"""Percent, between a number that s3prl printed and the same recomputed from its files: it averages in float32."""


class Unfinished(Exception):
    """Something is still to be run or scored; says what."""


@dataclass(frozen=True, kw_only=True)
class FoundMetrics:
    """What a run says of its task."""

    metrics: list[Value]
    num_utterances: int
    """How many were scored; 0 where s3prl left no trace of it."""
    note: str
    """Where the number comes from, and what was searched."""


@dataclass(frozen=True, kw_only=True)
class References:
    """What the user can point to where s3prl's directories do not suffice.

    None: as the run's ``config_*.yaml`` says.
    """

    quesst14: Path | None = None
    """``quesst14Database``, whose ``scoring`` holds the ground truth."""
    diarization: Path | None = None
    """The test set's ``rttm``."""


NO_REFERENCES = References()
