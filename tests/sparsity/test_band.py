"""The band rule: the sign of the size term on both sides of the band, and no size term inside."""

import pytest
import torch

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.sparsity.band import BandConfig
from s3prl_pruned.sparsity.config import Target


@pytest.mark.parametrize(
    ("sparsity", "value", "gradient"),
    [
        (0.5, 0.25, -0.5),
        (0.689, 0.1555, -0.5),
        (0.691, 0.0, 0.0),
        (0.7, 0.0, 0.0),
        (0.709, 0.0, 0.0),
        (0.72, -0.14, 0.5),
    ],
)
def test_the_size_is_added_below_the_band_subtracted_above_it_and_left_out_inside(sparsity, value, gradient):
    """lambda 0.5, band 0.69 to 0.71: +0.5 (1 - s), 0, -0.5 (1 - s)."""
    s = torch.tensor(sparsity, requires_grad=True)
    penalty = BandConfig(target=Target(share=0.7), tolerance=0.01, size_weight=0.5).penalty(s)
    penalty.backward()
    assert float(penalty.detach()) == pytest.approx(value, abs=1e-6) and float(s.grad) == gradient


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"target": {"share": 1.0}}, r"target: `share` must be in \[0, 1\), but is 1.0"),
        ({"target": {"of": "macs", "share": 0.5}}, "`target.of` must be params, but is macs"),
        ({"tolerance": 0.0}, r"`tolerance` must be in \(0, 1\), but is 0.0"),
        ({"size_weight": 0.0}, "`size_weight` must be positive, but is 0.0"),
    ],
)
def test_wrong_bands_are_refused(data, message):
    with pytest.raises(UserError, match=message):
        from_dict(BandConfig, data, "config_model.yaml")
