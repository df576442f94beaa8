"""``trained.json``, written by ``-m train``: a learning rate is chosen by it before any test data are read.

``choice.json``: the tried and the chosen rates, which the run with the chosen rate writes into its result.
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
    """A complete training, and its value on the development set."""

    task: str
    seed: int
    protocol: str
    upstream: Upstream
    steps: int
    dev: list[Value | None]
    """The best value of the task's criterion, one for each training (fold). None where the training never improved on
    the start."""


def read_trained(folder: Path) -> TrainedRun:
    """Read ``trained.json`` of a folder.

    Raises:
        UserError: it is not there, or is damaged.
    """
    path = folder / TRAINED_FILE
    return from_dict(TrainedRun, read_json(path), str(path))


@dataclass(kw_only=True)
class Choice:
    """The content of ``choice.json``."""

    tried_rates: list[TriedRate]
    """The tried rates, without metrics: no test data were read."""

    def with_metrics(self, metrics: list[Value]) -> list[TriedRate]:
        """The tried rates for the result of the run with the chosen rate.

        Args:
            metrics: metrics of that run.
        """
        return [replace(one, metrics=metrics) if one.chosen else one for one in self.tried_rates]


def read_choice(path: Path) -> Choice:
    """Read ``choice.json``.

    Raises:
        UserError: it is not there, or is damaged.
    """
    return from_dict(Choice, read_json(path), str(path))
