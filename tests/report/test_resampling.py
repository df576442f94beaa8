"""The bootstrap compared with formulas, with sets written out draw by draw, and with the metrics themselves."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from s3prl_pruned.objectives.eer import equal_error_rate
from s3prl_pruned.report.resampling import Resampled, interval, p_value, ratio, term_weighted, verification
from s3prl_pruned.superb.metrics.mtwv import max_term_weighted_value


def resampled(statistic, count):
    return Resampled(pieces=tuple(f"u{i:04}" for i in range(count)), kind="utterances", statistic=statistic)


def test_a_means_interval_is_that_of_its_standard_error():
    """400 utterances, 300 right: sqrt(0.75 * 0.25 / 400) = 2.165 points. 20,000 draws."""
    test = resampled(ratio([1] * 300 + [0] * 100, [1] * 400), 400)
    assert test.value() == 75
    draws = test.draws(20_000)
    assert draws.std() == pytest.approx(2.165, rel=0.03)
    assert interval(draws) == pytest.approx((75 - 1.96 * 2.165, 75 + 1.96 * 2.165), abs=0.3)


def test_two_systems_get_the_same_draws_and_no_difference_has_p_1():
    rng = np.random.default_rng(1)
    errors = rng.integers(0, 5, 200)
    one, same = (resampled(ratio(errors, [10] * 200), 200) for _ in range(2))
    assert np.array_equal(one.draws(), same.draws())
    assert p_value(one.draws() - same.draws()) == 1
    worse = resampled(ratio(errors + 1, [10] * 200), 200)
    assert np.allclose(worse.draws() - one.draws(), 10)  # one error more of ten in every utterance, whatever is drawn
    assert p_value(worse.draws() - one.draws()) == pytest.approx(2 / 2001)


def test_p_is_that_of_the_normal_distribution_where_differences_are_normal():
    draws = np.random.default_rng(0).normal(1.5, 1.0, 200_000)
    assert p_value(draws) == pytest.approx(2 * norm.sf(1.5), rel=0.03)
    assert p_value(-draws) == pytest.approx(p_value(draws))
    assert p_value(np.append(draws, math.nan)) == p_value(draws)


def test_verification_is_the_rate_of_the_trials_written_out_as_often_as_their_speakers_are_drawn():
    rng = np.random.default_rng(2)
    speakers = rng.integers(0, 5, (60, 2))
    speakers[:20, 1] = speakers[:20, 0]
    labels = (speakers[:, 0] == speakers[:, 1]).astype(int)
    scores = np.round(rng.normal(labels, 1.0), 1)  # with ties
    statistic = verification(labels, scores, speakers)
    assert statistic(np.ones((1, 5)))[0] == pytest.approx(100 * equal_error_rate(labels, scores))
    drawn = np.array([2, 0, 1, 1, 1])
    times = [drawn[a] if a == b else drawn[a] * drawn[b] for a, b in speakers]
    written = 100 * equal_error_rate(np.repeat(labels, times), np.repeat(scores, times))
    assert statistic(drawn[None])[0] == pytest.approx(written, abs=1e-9)
    assert np.isnan(statistic(np.array([[5, 0, 0, 0, 0]]))[0])  # one speaker: no other to tell apart from


def test_the_term_weighted_value_is_that_of_the_queries_written_out_as_often_as_they_are_drawn():
    rng = np.random.default_rng(3)
    occurs = rng.random((6, 40)) < 0.2
    occurs[:, 0], occurs[:, 1] = True, False
    scores = np.round(rng.normal(2.0 * occurs, 0.8), 1)
    scores[rng.random(scores.shape) < 0.3] = np.nan
    full = np.nan_to_num(scores, nan=-10)
    statistic = term_weighted(scores, occurs, lowest=-10)
    assert statistic(np.ones((1, 6)))[0] == pytest.approx(100 * max_term_weighted_value(full, occurs).mtwv)
    drawn = np.array([2, 0, 1, 3, 0, 0])
    written = max_term_weighted_value(np.repeat(full, drawn, axis=0), np.repeat(occurs, drawn, axis=0)).mtwv
    assert written > 0 and statistic(drawn[None])[0] == pytest.approx(100 * written, abs=1e-9)
    # Equal scores are detected together: a hit with one of two false alarms, 1 - 12.49 / 2, is worse than nothing.
    tied = term_weighted(np.array([[1.0, 1.0, 0.0]]), np.array([[True, False, False]]), lowest=-10)
    assert tied(np.ones((1, 1)))[0] == 0
