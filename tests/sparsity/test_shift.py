"""One constant, added to all log_alpha, brings the expected share to the target."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s3prl_pruned.gates.attach import GateConfig, GateSet
from s3prl_pruned.gates.hard_concrete import keep_probability
from s3prl_pruned.models.dummies import tiny_base
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.config import CnnTarget, Target
from s3prl_pruned.sparsity.lagrangian import SparsityConfig
from s3prl_pruned.sparsity.shift import shift_to_target
from s3prl_pruned.sparsity.targets import cnn_measure_of, measure_of

SHAPE = tiny_base()


def gates_of(*kinds, seed=None, spread=2.0):
    gates = GateSet(CompactSpec.dense(SHAPE), GateConfig(kinds=kinds or GateConfig().kinds), SHAPE)
    if seed is not None:
        with torch.no_grad():
            gates.log_alpha.copy_(
                spread * torch.randn(gates.log_alpha.shape, generator=torch.Generator().manual_seed(seed))
            )
            gates.clamp()
    return gates


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    spread=st.floats(0.5, 3.0),
    move=st.floats(-1.5, 1.5),
    of=st.sampled_from(["params", "macs"]),
)
def test_the_expected_share_is_the_target_and_the_order_of_the_units_stays(seed, spread, move, of):
    gates = gates_of(seed=seed, spread=spread)
    measure = measure_of(SparsityConfig(target=Target(of=of, share=0.5)), SHAPE)
    before, now = gates.log_alpha.detach().clone(), float(measure.expected(gates).detach())
    target = min(0.9, max(0.1, now + 0.1 * move))
    shift_to_target(gates, measure, target)
    assert float(measure.expected(gates)) == pytest.approx(target, abs=1e-4)
    moved = gates.log_alpha.detach() - before
    inside = gates.log_alpha.detach().abs() < gates.config.max_log_alpha
    assert torch.allclose(moved[inside], moved[inside][0].expand(int(inside.sum())), atol=1e-5)
    assert (gates.log_alpha.abs() <= gates.config.max_log_alpha).all()


def test_the_constant_is_that_of_bisection_in_float64():
    """One slot of FFN dimensions: the expected sparsity is a share of the sum of P(z > 0), by hand."""
    gates = gates_of("int", seed=3)
    measure = measure_of(SparsityConfig(), SHAPE)
    start, target = gates.log_alpha.detach().clone(), float(measure.expected(gates)) + 0.05
    removed = float(measure.expected(gates)) / float((1 - keep_probability(start)).double().sum())
    low, high = -7.0, 7.0
    for _ in range(60):
        middle = (low + high) / 2
        kept = torch.sigmoid((start.double() + middle).clamp(-7, 7) - 2 / 3 * torch.tensor(0.1 / 1.1).double().log())
        low, high = (middle, high) if float((1 - kept).sum()) * removed > target else (low, middle)
    shift_to_target(gates, measure, target)
    inside = gates.log_alpha.detach().abs() < 6.9
    assert (gates.log_alpha.detach() - start)[inside].double().mean().item() == pytest.approx(low, abs=1e-3)


def test_from_open_gates_a_few_calls_reach_a_far_target():
    gates, measure = gates_of(), measure_of(SparsityConfig(), SHAPE)
    for _ in range(3):
        shift_to_target(gates, measure, 0.8)
    assert float(measure.expected(gates)) == pytest.approx(0.8, abs=1e-4)


def test_a_target_out_of_reach_closes_the_gates_and_stays_finite():
    gates, measure = gates_of(), measure_of(SparsityConfig(), SHAPE)
    for _ in range(10):
        shift_to_target(gates, measure, 0.99999)
    assert (gates.log_alpha == -gates.config.max_log_alpha).all()


def test_a_target_of_the_cnn_moves_its_channels_alone():
    config = SparsityConfig(cnn_target=CnnTarget(of="macs", share=0.3))
    gates = gates_of("conv", "int", seed=1)
    measure, before = cnn_measure_of(config, SHAPE), gates.log_alpha.detach().clone()
    shift_to_target(gates, measure, 0.4, channels=True)
    assert float(measure.expected(gates)) == pytest.approx(0.4, abs=1e-4)
    old, new = (gates.table.split(each) for each in (before, gates.log_alpha.detach()))
    assert all(torch.equal(old[slot], new[slot]) == (slot[1] != "z_conv") for slot in old)
    middle = gates.log_alpha.detach().clone()
    shift_to_target(gates, measure_of(config, SHAPE), 0.5, channels=False)
    old, new = (gates.table.split(each) for each in (middle, gates.log_alpha.detach()))
    assert all(torch.equal(old[slot], new[slot]) == (slot[1] == "z_conv") for slot in old)
