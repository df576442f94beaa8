"""Schedule of the target, formula of the penalty, and gates that the multipliers drive to the target."""

import pytest
import torch

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.gates.attach import GateConfig, GateSet
from s3prl_pruned.models.dummies import tiny_base
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.config import Target
from s3prl_pruned.sparsity.expected import expected_sparsity
from s3prl_pruned.sparsity.lagrangian import Lagrangian, SparsityConfig


def test_the_defaults_are_the_papers():
    config = SparsityConfig()
    assert (config.target, config.warmup_fraction) == (Target(of="params", share=0.8), 0.07)


def test_masks_are_fixed_in_the_last_fifth_by_default():
    settling = [step for step in range(1, 501) if SparsityConfig().is_settling(step, 500)]
    assert settling == list(range(401, 501))
    assert not SparsityConfig(settle_fraction=0.0).is_settling(500, 500)
    assert SparsityConfig(settle_fraction=0.5, warmup_fraction=0.5).is_settling(3, 4)


def test_the_target_rises_linearly_over_the_warmup_and_stays():
    config = SparsityConfig(target=Target(share=0.8), warmup_fraction=0.07)
    targets = [config.target_at(step, 1000) for step in range(1, 1001)]
    assert targets[:70] == pytest.approx([0.8 * step / 70 for step in range(1, 71)])
    assert set(targets[69:]) == {0.8}
    assert config.target_at(14_000, 200_000) == pytest.approx(0.8)
    assert config.target_at(7_000, 200_000) == pytest.approx(0.4)


def test_without_warmup_the_target_is_final_from_the_first_step():
    assert SparsityConfig(warmup_fraction=0.0).target_at(1, 10) == 0.8


def test_the_penalty_is_that_of_eq_5_and_starts_at_zero():
    lagrangian = Lagrangian()
    assert {p.item() for p in lagrangian.parameters()} == {0.0}
    expected = torch.tensor(0.3, requires_grad=True)
    assert float(lagrangian(expected, 0.8)) == 0
    with torch.no_grad():
        lagrangian.lambda1.fill_(-2.0)
        lagrangian.lambda2.fill_(3.0)
    penalty = lagrangian(expected, 0.8)
    assert float(penalty) == pytest.approx(-2.0 * -0.5 + 3.0 * 0.25)
    penalty.backward()
    assert float(expected.grad) == pytest.approx(-2.0 + 2 * 3.0 * -0.5)
    assert float(lagrangian.lambda1.grad) == pytest.approx(-0.5)
    assert float(lagrangian.lambda2.grad) == pytest.approx(0.25)


@pytest.mark.parametrize(("expected", "sign"), [(0.3, -1), (0.95, 1)])
def test_ascent_moves_the_multipliers_towards_the_target(expected, sign):
    """Too dense: lambda1 falls, so that gradient descent on the gates raises the sparsity; too sparse: it rises."""
    lagrangian = Lagrangian()
    optimizer = torch.optim.Adam(lagrangian.parameters(), lr=0.02, maximize=True)
    for _ in range(3):
        optimizer.zero_grad()
        lagrangian(torch.tensor(expected), 0.8).backward()
        optimizer.step()
    assert float(lagrangian.lambda1) * sign > 0.05
    assert float(lagrangian.lambda2) > 0.05


@pytest.mark.parametrize("kinds", [GateConfig().kinds, ("mha", "head", "ffn", "int")])
@pytest.mark.parametrize("target", [0.4, 0.8])
def test_gates_without_a_model_reach_the_target(target, kinds):
    config, total = tiny_base(), 1200
    sparsity = SparsityConfig(target=Target(share=target))
    gates, lagrangian = GateSet(CompactSpec.dense(config), GateConfig(kinds=kinds)), Lagrangian()
    descent = torch.optim.AdamW(gates.parameters(), lr=0.02, weight_decay=0.0)
    ascent = torch.optim.Adam(lagrangian.parameters(), lr=0.02, maximize=True)
    last = []
    for step in range(1, total + 1):
        descent.zero_grad()
        ascent.zero_grad()
        expected = expected_sparsity(gates, config)
        lagrangian(expected, sparsity.target_at(step, total)).backward()
        descent.step()
        ascent.step()
        gates.clamp()
        last.append(float(expected.detach()))
    assert last[0] < 0.02
    assert sum(last[-300:]) / 300 == pytest.approx(target, abs=0.02)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"target": {"share": 1.0}}, r"target: `share` must be in \[0, 1\), but is 1.0"),
        ({"target_sparsity": -0.1}, r"target: `share` must be in \[0, 1\), but is -0.1"),
        ({"warmup_fraction": 1.5}, r"`warmup_fraction` must be in \[0, 1\], but is 1.5"),
        ({"tolerance": 0.0}, r"`tolerance` must be in \(0, 1\), but is 0.0"),
        ({"targets": 0.8}, "targets: unknown key. Did you mean `target`"),
        ({"target": 0.8}, "target: must be a section of `key: value` lines, but is 0.8"),
    ],
)
def test_wrong_sparsity_configurations_are_refused(data, message):
    with pytest.raises(UserError, match=message):
        from_dict(SparsityConfig, data, "config_model.yaml")
