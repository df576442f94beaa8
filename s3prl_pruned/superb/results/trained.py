"""``trained.json``: what ``-m train`` leaves, by which a learning rate is chosen before any test data are read.

``choice.json``: what was tried and chosen so, which the run with the chosen rate writes into its result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from s3prl_pruned.config import from_dict
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.results.result import TriedRate, Upstream, read_json

TRAINED_FILE = "trained.json"


@dataclass(kw_only=True)
class TrainedRun:
    """A training that is complete, and how good it was on the development set."""

    task: str
    seed: int
    protocol: str
    upstream: Upstream
    steps: int
    dev: list[Value | None]
    """The best value of the task's criterion, one for each training (fold). None where there is none: it never got
    better than at the start."""


def read_trained(folder: Path) -> TrainedRun:
    """Read ``trained.json`` of a folder.

    Raises:
        UserError: it is not there, or is damaged.
    """
    path = folder / TRAINED_FILE
    return from_dict(TrainedRun, read_json(path), str(path))


@dataclass(kw_only=True)
class Choice:
    """``choice.json``."""

    tried_rates: list[TriedRate]
    """Without metrics: no test data were read."""

    def with_metrics(self, metrics: list[Value]) -> list[TriedRate]:
        """For the result of the run with the chosen rate.

        Args:
            metrics: of that run.
        """
        return [replace(one, metrics=metrics) if one.chosen else one for one in self.tried_rates]


def read_choice(path: Path) -> Choice:
    """Read ``choice.json``.

    Raises:
        UserError: it is not there, or is damaged.
    """
    return from_dict(Choice, read_json(path), str(path))
