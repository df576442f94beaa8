"""Fixtures and settings shared by the tests of several packages."""

import os
import signal

import pytest
import torch
from hypothesis import settings

# The same examples in every run, so that a passing test suite stays so; `make slow` draws new ones.
settings.register_profile("same_draws", derandomize=True, deadline=None)
settings.register_profile("new_draws", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same_draws"))

# `nohup` ignores it, also in child processes of the tests, and some tests send it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items):
    """Skip tests marked `cuda` if there is no GPU."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def relative_differences(ours, theirs):
    """Per hidden state: the largest difference divided by max(1, largest value)."""
    assert len(ours) == len(theirs), f"{len(ours)} states against {len(theirs)}"
    for mine, other in zip(ours, theirs):
        assert mine.shape == other.shape
        assert torch.isfinite(other).all()
    return [float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in zip(ours, theirs)]


@pytest.fixture(name="relative_differences", scope="session")
def _relative_differences():
    return relative_differences
