"""The pieces in a real run's files must give its result."""

from pathlib import Path

import numpy as np
import pytest

from s3prl_pruned.report.kept import kept_tests
from s3prl_pruned.superb.catalogue import TASKS
from s3prl_pruned.superb.results.result import read_result


def assert_pieces_give_the_result(folder: Path, kind: str = "utterances") -> None:
    """Read the run in `folder`, whose pieces must be of this kind, and resample them a few times."""
    result = read_result(folder / "result.json")
    tests = {test.name: test.resampled for test in kept_tests(result, [folder])}
    assert {metric.name for metric in TASKS[result.task].metrics} <= tests.keys() <= result.values().keys()
    for name, resampled in tests.items():
        assert resampled.value() == pytest.approx(result.values()[name].percent, abs=1e-3)
        assert resampled.kind == kind and len(set(resampled.pieces)) == len(resampled.pieces) > 1
        draws = resampled.draws(20)
        assert draws.shape == (20,) and not np.isnan(draws).all()
