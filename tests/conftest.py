"""What tests of several packages share."""

import pytest
import torch


def relative_differences(ours, theirs):
    """Per hidden state: the largest difference over max(1, largest value)."""
    assert len(ours) == len(theirs), f"{len(ours)} states against {len(theirs)}"
    for mine, other in zip(ours, theirs):
        assert mine.shape == other.shape
        assert torch.isfinite(other).all()
    return [float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in zip(ours, theirs)]


@pytest.fixture(name="relative_differences", scope="session")
def _relative_differences():
    return relative_differences
