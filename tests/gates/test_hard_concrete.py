"""The hard concrete distribution against its closed form, numerical integration and gradients by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import expit, logit
from scipy.stats import binom

from s3prl_pruned.gates.hard_concrete import (
    HardConcrete,
    keep_probability,
    sample,
    soft_value,
    stretched,
)

BETA, GAMMA, ZETA, EPSILON = 2 / 3, -0.1, 1.1, 1e-6  # written out here again
LOG_ALPHAS = (-4.605, -1.6, -0.5, 0.0, 1.0, 2.3, 4.605)
DRAWS = 200_000


def probability_of_more_than(value, log_alpha):
    """P(s_bar > value), from the definition: solve s_bar(u) = value for u."""
    s = (value - GAMMA) / (ZETA - GAMMA)
    return 1 - expit(BETA * logit(s) - log_alpha)


def draw(log_alpha, num=DRAWS, seed=0, *, straight_through=True):
    u = torch.rand(num, generator=torch.Generator().manual_seed(seed))
    return sample(torch.full((num,), log_alpha), u, straight_through=straight_through)


def within_chance(count, probability):
    """Whether a binomial count is within the central 99.9999 %; a wrong formula is off by far more."""
    low, high = binom.interval(1 - 1e-6, DRAWS, probability)
    return low <= count <= high


@pytest.mark.parametrize("log_alpha", LOG_ALPHAS)
def test_draws_are_zero_one_and_between_as_often_as_the_closed_form_says(log_alpha):
    z = draw(log_alpha)
    assert z.min() >= 0 and z.max() <= 1
    for count, probability in (
        ((z > 0).sum(), probability_of_more_than(0.0, log_alpha)),
        ((z == 1).sum(), probability_of_more_than(1.0, log_alpha)),
        ((z > 0.5).sum(), probability_of_more_than(0.5, log_alpha)),
    ):
        assert within_chance(int(count), probability)


def test_the_count_of_draws_tells_the_papers_printed_form_from_ours():
    log_alpha = 1.0
    printed = 1 - expit(BETA * (logit(-GAMMA / (ZETA - GAMMA)) - log_alpha))  # s = sigmoid(logit(u)/beta + log_alpha)
    assert not within_chance(int((draw(log_alpha) > 0).sum()), printed)


@pytest.mark.parametrize("log_alpha", LOG_ALPHAS)
def test_keep_probability_is_the_closed_form(log_alpha):
    expected = probability_of_more_than(0.0, log_alpha)
    assert float(keep_probability(torch.tensor(log_alpha))) == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx(expit(log_alpha - BETA * math.log(-GAMMA / ZETA)), rel=1e-12)


@pytest.mark.parametrize("log_alpha", LOG_ALPHAS)
def test_mean_and_spread_of_draws_equal_the_integral_over_u(log_alpha):
    def z(u):
        return min(1.0, max(0.0, expit((logit(u) + log_alpha) / BETA) * (ZETA - GAMMA) + GAMMA))

    kinks = [float(expit(BETA * logit((v - GAMMA) / (ZETA - GAMMA)) - log_alpha)) for v in (0.0, 1.0)]
    moments = [
        quad(lambda u, power: z(u) ** power, 0, 1, args=(power,), points=kinks, limit=200)[0] for power in (1, 2)
    ]
    deviation = math.sqrt(moments[1] - moments[0] ** 2)
    drawn = draw(log_alpha).double()
    assert abs(float(drawn.mean()) - moments[0]) < 5 * deviation / math.sqrt(DRAWS)
    assert abs(float(drawn.std()) - deviation) < 0.01


def test_the_density_between_zero_and_one_is_the_derivative_of_the_closed_form():
    log_alpha = 0.3
    counts, edges = np.histogram(draw(log_alpha).double().numpy(), bins=20, range=(1e-9, 1 - 1e-9))
    for count, low, high in zip(counts, edges, edges[1:]):
        assert within_chance(
            count, probability_of_more_than(low, log_alpha) - probability_of_more_than(high, log_alpha)
        )


@pytest.mark.parametrize(("log_alpha", "share", "with_ste"), [(4.6, 0.045, 0.99), (10.0, 0.0002, 0.7)])
def test_few_draws_pass_a_gradient_through_the_plain_clamp(log_alpha, share, with_ste):
    """4.5 % at 4.6 and 0.02 % at 10: why eq. 4 matters. (With it, only fp32's sigmoid saturates.)"""
    exact = probability_of_more_than(0.0, log_alpha) - probability_of_more_than(1.0, log_alpha)
    assert exact == pytest.approx(share, rel=0.15)
    passed = {}
    for straight_through in (False, True):
        parameter = torch.full((DRAWS,), log_alpha, requires_grad=True)
        u = torch.rand(DRAWS, generator=torch.Generator().manual_seed(0))
        sample(parameter, u, straight_through=straight_through).sum().backward()
        passed[straight_through] = int((parameter.grad != 0).sum())
    assert within_chance(passed[False], exact)
    assert passed[True] > with_ste * DRAWS


def by_hand(log_alpha, u):
    """d s_bar / d log_alpha in float64."""
    u = u.double() * (1 - 2 * EPSILON) + EPSILON
    s = torch.sigmoid((torch.logit(u) + log_alpha.double()) / BETA)
    return (ZETA - GAMMA) * s * (1 - s) / BETA


def test_the_straight_through_gradient_is_clipped_and_passes_saturation():
    log_alpha = torch.tensor([-4.0, -4.0, 0.0, 0.0, 0.0, 4.0, 4.0], requires_grad=True)
    u = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.5, 0.5, 0.9])
    upstream = torch.tensor([0.5, -0.5, 3.0, -3.0, 0.25, -7.0, 1.0])
    z = sample(log_alpha, u, straight_through=True)
    assert z.tolist().count(0.0) >= 1 and z.tolist().count(1.0) >= 1
    z.backward(upstream)
    expected = upstream.double().clamp(-1, 1) * by_hand(log_alpha.detach(), u)
    assert (log_alpha.grad - expected).abs().max() < 1e-6
    assert (log_alpha.grad != 0).all()


def test_the_plain_gradient_is_not_clipped_and_is_zero_in_saturation():
    log_alpha = torch.tensor([-4.0, 0.0, 4.0], requires_grad=True)
    u, upstream = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([5.0, 5.0, 5.0])
    z = sample(log_alpha, u, straight_through=False)
    assert z[0] == 0 and z[2] == 1
    z.backward(upstream)
    expected = 5 * float(by_hand(torch.tensor(0.0), torch.tensor(0.5)))
    assert log_alpha.grad.tolist() == pytest.approx([0.0, expected, 0.0], abs=1e-6)


def test_both_estimators_draw_the_same_masks():
    assert torch.equal(draw(0.5, straight_through=True), draw(0.5, straight_through=False))


def test_the_ends_of_the_noise_are_finite():
    for u in (0.0, 1.0):
        log_alpha = torch.tensor([0.0, 4.605], requires_grad=True)
        s_bar = stretched(log_alpha, torch.full((2,), u))
        s_bar.sum().backward()
        assert torch.isfinite(s_bar).all() and torch.isfinite(log_alpha.grad).all()
    assert float(stretched(torch.tensor(0.0), torch.tensor(0.0))) == pytest.approx(GAMMA, abs=1e-6)
    assert float(stretched(torch.tensor(0.0), torch.tensor(1.0))) == pytest.approx(ZETA, abs=1e-6)


def test_soft_values_are_the_documented_formula():
    log_alpha = torch.tensor([-1.0, 0.0, 2.0])
    expected = [1 / (1 + math.exp(-0.8 * x / BETA)) for x in (-1.0, 0.0, 2.0)]
    assert soft_value(log_alpha).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gates_compute_in_single_precision_under_autocast(dtype):
    gate = HardConcrete(torch.full((50,), 2.0, requires_grad=True), straight_through=True)
    u = torch.linspace(0, 1, 50)
    expected, probability = gate(u), gate.keep_probability()
    with torch.autocast("cpu", dtype=dtype):
        inside = (gate(u), gate.keep_probability(), gate.expected_count())
        half = torch.rand(3, 3) @ torch.rand(3, 3)
    assert half.dtype == dtype, "autocast was not on"
    assert all(x.dtype == torch.float32 and torch.isfinite(x).all() for x in inside)
    assert torch.equal(inside[0], expected) and torch.equal(inside[1], probability)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_arguments_are_computed_in_single_precision(dtype):
    u, log_alpha = torch.linspace(0, 1, 50).to(dtype), torch.linspace(-4, 4, 50).to(dtype)
    assert torch.equal(stretched(log_alpha, u), stretched(log_alpha.float(), u.float()))
    assert torch.equal(keep_probability(log_alpha), keep_probability(log_alpha.float()))
    assert torch.equal(soft_value(log_alpha), soft_value(log_alpha.float()))


def test_expected_count_and_clamp():
    gate = HardConcrete(torch.zeros(4, requires_grad=True), straight_through=True)
    with torch.no_grad():
        gate.log_alpha.copy_(torch.tensor([-9.0, -1.0, 1.0, 9.0]))
    expected = sum(probability_of_more_than(0.0, x) for x in (-9.0, -1.0, 1.0, 9.0))
    assert float(gate.expected_count().detach()) == pytest.approx(expected, rel=1e-6)
    gate.clamp(4.605)
    assert gate.log_alpha.tolist() == pytest.approx([-4.605, -1.0, 1.0, 4.605])
    assert "size=4, straight_through=True" in repr(gate)
