"""What is found in a run directory of s3prl, what may be missing, and where else the user can say it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.superb.catalogue import Value

TOLERANCE = 1e-4
"""Percent, between a number that s3prl printed and the same number recomputed from its files: s3prl averages in
float32."""


class Unfinished(Exception):
    """Something is still to be run or scored; the message says what."""


@dataclass(frozen=True, kw_only=True)
class FoundMetrics:
    """The metrics found in a run directory."""

    metrics: list[Value]
    num_utterances: int
    """Number of scored utterances; 0 where s3prl does not say."""
    note: str
    """Where the metrics come from, and what was searched."""


@dataclass(frozen=True, kw_only=True)
class References:
    """References that the user names where s3prl's directories are not enough.

    None: as in the run's ``config_*.yaml``.
    """

    quesst14: Path | None = None
    """Folder ``quesst14Database``, whose ``scoring`` holds the ground truth."""
    diarization: Path | None = None
    """The test set's ``rttm`` file."""


NO_REFERENCES = References()
