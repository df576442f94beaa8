"""The sampled numbers of Figure 1 agree with the theory of the distribution."""

import json

import numpy as np
import pytest
from scipy.special import expit, logit

from s3prl_pruned.gates.distribution import measure_hard_concrete, write_hard_concrete


def share_of_s_bar_below(value, log_alpha, *, beta=2 / 3, gamma=-0.1, zeta=1.1):
    """P(s_bar < value): Louizos et al. 2018, eq. 12, solved for u by hand."""
    s = (value - gamma) / (zeta - gamma)
    return expit(beta * logit(s) - log_alpha)


def test_the_distribution_has_the_masses_of_the_closed_form():
    shown = measure_hard_concrete().distribution
    sampling_error = 4 * 0.5 / np.sqrt(shown.num_samples)
    edges = np.array(shown.bin_edges)
    below = share_of_s_bar_below(edges[1:-1], shown.log_alpha)
    expected = np.diff([0, *below, 1])
    np.testing.assert_allclose(shown.s_bar, expected, atol=sampling_error)
    assert shown.z_zero == pytest.approx(share_of_s_bar_below(0, shown.log_alpha), abs=sampling_error)
    assert shown.z_one == pytest.approx(1 - share_of_s_bar_below(1, shown.log_alpha), abs=sampling_error)
    assert sum(shown.s_bar) == pytest.approx(1, abs=1e-6)
    assert sum(shown.z_inside) + shown.z_zero + shown.z_one == pytest.approx(1, abs=1e-6)


def test_the_share_with_a_gradient_is_that_of_the_closed_form():
    means = measure_hard_concrete().means
    log_alpha = np.array(means.log_alpha)
    expected = share_of_s_bar_below(1, log_alpha) - share_of_s_bar_below(0, log_alpha)
    np.testing.assert_allclose(means.with_gradient, expected, atol=4 * 0.5 / np.sqrt(means.num_samples))
    assert means.num_samples == 500


def test_means_rise_from_the_lower_to_the_upper_end():
    means = measure_hard_concrete().means
    assert np.all(np.diff(means.s_bar) > 0) and np.all(np.diff(means.z) >= 0)
    assert -0.1 < means.s_bar[0] < 0 and 1 < means.s_bar[-1] < 1.1
    assert 0 <= means.z[0] < 0.05 and 0.95 < means.z[-1] <= 1


def test_the_file_is_the_same_every_time(tmp_path):
    first = write_hard_concrete(tmp_path).read_text()
    assert write_hard_concrete(tmp_path).read_text() == first
    assert json.loads(first)["seed"] == 0
