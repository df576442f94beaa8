"""The rule that turns trained gates into final masks, and the shift that meets the target."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s3prl_pruned.export.masks import export_compact, final_masks
from s3prl_pruned.gates.attach import GateConfig, GateSet
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.families import wavlm_embedded
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.config import Target
from s3prl_pruned.sparsity.counts import realised_sparsity
from s3prl_pruned.sparsity.expected import expected_sparsity
from s3prl_pruned.sparsity.lagrangian import SparsityConfig

FULL, NO_FAHP = ("mha", "qk", "vo", "ffn", "int"), ("mha", "head", "ffn", "int")
BARE = SparsityConfig(match_target=False, smallest_scale=0.0)


WITH_CNN = (*FULL, "conv")


def trained(spec, *, kinds=FULL, seed=0, mean=-0.5, scale=2.0, shape=None):
    """Gates with log_alpha as at the end of a training."""
    gates, generator = GateSet(spec, GateConfig(kinds=kinds), shape), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, name, gate in gates.items():
            start = 1.0 if name in ("z_mha", "z_ffn") else mean
            gate.log_alpha.copy_(
                (start + scale * torch.randn(gate.log_alpha.shape, generator=generator)).clamp(-4.6, 4.6)
            )
    return gates


def by_the_rule(log_alpha, *, scalar):
    """The rule of `final_masks`, in plain Python."""
    probability = [1 / (1 + math.exp(-(a - 2 / 3 * math.log(0.1 / 1.1)))) for a in log_alpha]
    soft = [1 / (1 + math.exp(-0.8 * a / (2 / 3))) for a in log_alpha]
    if scalar:
        return [value if p > 0.5 else 0.0 for p, value in zip(probability, soft)]
    num = len(log_alpha)
    num_kept = num - round(num - sum(probability))
    order = sorted(range(num), key=lambda i: (-log_alpha[i], i))
    return [soft[i] if i in order[:num_kept] else 0.0 for i in range(num)]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kinds=st.sampled_from([FULL, NO_FAHP, WITH_CNN, (*FULL, "pos")]),
    pruned_before=st.booleans(),
)
def test_every_mask_follows_the_rule(seed, kinds, pruned_before):
    config = tiny_base()
    encoder = SpeechEncoder(config, random_spec(config, seed=seed, channels=seed % 2 == 0) if pruned_before else None)
    gates = trained(encoder.spec, kinds=kinds, seed=seed, shape=config)
    final = final_masks(gates, encoder, BARE)
    for layer, name, gate in gates.items():
        log_alpha = gate.log_alpha.tolist()
        expected = by_the_rule(log_alpha, scalar=name in ("z_mha", "z_ffn"))
        found = final.masks[layer, name]
        if name == "z_conv" and not any(expected):  # a CNN layer keeps at least one
            best = log_alpha.index(max(log_alpha))
            expected[best] = 1 / (1 + math.exp(-0.8 * log_alpha[best] / (2 / 3)))
        assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert (final.spec.channels is not None) == ("conv" in kinds or encoder.spec.channels is not None)
    assert (final.spec.position_groups is not None) == ("pos" in kinds)
    assert final.sparsity == final.rounded_sparsity == realised_sparsity(config, final.spec) and final.shift == 0


def test_a_layer_of_the_cnn_keeps_its_best_channel_when_all_its_gates_close():
    encoder = SpeechEncoder(tiny_base())
    gates = GateSet(encoder.spec, GateConfig(kinds=("conv",), max_log_alpha=30.0), encoder.config)
    for i, _, gate in gates.items():
        gate.log_alpha.data.fill_(-30.0)
        gate.log_alpha.data[i + 1] = -20.0
    assert final_masks(gates, encoder, BARE).spec.channels == tuple((i + 1,) for i in range(5))


def test_a_scalar_mask_is_kept_if_and_only_if_its_probability_is_over_one_half():
    border = 2 / 3 * math.log(0.1 / 1.1)  # P(z > 0) = 0.5
    encoder = SpeechEncoder(tiny_base())
    gates = GateSet(encoder.spec, GateConfig())
    for offset, lives in ((1e-3, True), (-1e-3, False)):
        for _, name, gate in gates.items():
            if name in ("z_mha", "z_ffn"):
                gate.log_alpha.data.fill_(border + offset)
        layers = final_masks(gates, encoder, BARE).spec.layers
        assert {layer.attention for layer in layers} == {layer.feed_forward for layer in layers} == {lives}


@pytest.mark.parametrize("kinds", [("pos",), ("mha", "ffn")])
def test_no_shift_is_said_where_none_can_help(kinds):
    encoder = SpeechEncoder(tiny_base())
    gates = trained(encoder.spec, kinds=kinds, seed=1, shape=encoder.config)
    final = final_masks(gates, encoder, SparsityConfig(target=Target(share=0.9)))
    assert final.shift == 0 and abs(final.sparsity - 0.9) > 0.002


def test_of_equal_units_the_first_are_kept():
    encoder = SpeechEncoder(tiny_base())
    gates = GateSet(encoder.spec, GateConfig())
    for _, name, gate in gates.items():
        if name == "z_int":
            gate.log_alpha.data.fill_(-1.0)
            gate.log_alpha.data[7] = 0.5
    probability = 1 / (1 + math.exp(-(-1.0 - 2 / 3 * math.log(0.1 / 1.1))))
    num_kept = 20 - round(20 - 19 * probability - 1 / (1 + math.exp(-(0.5 - 2 / 3 * math.log(0.1 / 1.1)))))
    assert 8 < num_kept < 20
    for layer in final_masks(gates, encoder, BARE).spec.layers:
        assert layer.ffn == tuple(range(num_kept))


@pytest.fixture(scope="module")
def embedded():
    """The embedded teacher's shape, without weights: one dimension is much less than 1 % of sparsity."""
    with torch.device("meta"):
        return SpeechEncoder(wavlm_embedded())


@pytest.mark.parametrize("kinds", [FULL, NO_FAHP, WITH_CNN])
@pytest.mark.parametrize(("mean", "target"), [(-0.5, 0.8), (-3.0, 0.6), (1.0, 0.5)])
def test_a_missed_target_is_met_by_one_shift_of_the_dimension_gates(embedded, kinds, mean, target):
    gates = trained(embedded.spec, kinds=kinds, mean=mean, scale=1.0, shape=embedded.config)
    for _, name, gate in gates.items():  # no layer may be removed, so that any target can be met
        if name in ("z_mha", "z_ffn"):
            gate.log_alpha.data.clamp_(min=0.5)
    bare = final_masks(gates, embedded, SparsityConfig(target=Target(share=target), match_target=False))
    assert abs(bare.sparsity - target) > 0.01
    final = final_masks(gates, embedded, SparsityConfig(target=Target(share=target)))
    assert abs(final.sparsity - target) <= 0.002  # a whole head is 1 point: FFN dimensions make up the difference
    assert final.sparsity == realised_sparsity(embedded.config, final.spec)
    assert final.rounded_sparsity == bare.sparsity
    assert final.shift != 0 and (final.shift > 0) == (bare.sparsity > target)
    assert (final.ffn_shift != 0) <= (kinds == NO_FAHP)
    for layer, name, gate in gates.items():
        mask = final.masks[layer, name]
        log_alpha = gate.log_alpha.detach()
        if name in ("z_mha", "z_ffn"):
            assert torch.equal(mask, bare.masks[layer, name])
            continue
        shift = final.shift + (final.ffn_shift if name == "z_int" else 0)
        num_kept = sum(value > 0 for value in by_the_rule((log_alpha + shift).tolist(), scalar=False))
        # Bisection finds a shift where a count changes, and fp32 may round it to either side.
        assert abs(int((mask > 0).sum()) - num_kept) <= 1
        largest = log_alpha.argsort(descending=True, stable=True)[: int((mask > 0).sum())]
        assert (mask[largest] > 0).all()
        learned = torch.sigmoid(0.8 * (log_alpha + max(0.0, shift)) / (2 / 3))  # a shift down changes no value
        assert torch.allclose(mask[mask > 0], learned[mask > 0])


def test_within_the_tolerance_nothing_is_shifted(embedded):
    gates = trained(embedded.spec)
    rounded = final_masks(gates, embedded, BARE).sparsity
    for offset, shifts in ((0.0018, False), (-0.0018, False), (0.004, True), (-0.004, True)):
        config = SparsityConfig(target=Target(share=rounded + offset), smallest_scale=0.0)
        assert (final_masks(gates, embedded, config).shift != 0) == shifts
    wide = SparsityConfig(target=Target(share=rounded + 0.02), tolerance=0.05, smallest_scale=0.0)
    assert final_masks(gates, embedded, wide).shift == 0


def test_without_match_target_only_the_rounding_rule_is_applied(embedded):
    gates = trained(embedded.spec, mean=-3.0)
    final = final_masks(gates, embedded, SparsityConfig(target=Target(share=0.2), match_target=False))
    assert final.shift == 0 and final.sparsity == final.rounded_sparsity and abs(final.sparsity - 0.2) > 0.1


def test_a_target_that_dimensions_cannot_reach_is_approached_and_reported(embedded):
    gates = trained(embedded.spec)
    for _, name, gate in gates.items():
        if name in ("z_ffn", "z_mha"):
            gate.log_alpha.data.fill_(-4.0 if name == "z_ffn" else 1.0)
    final = final_masks(gates, embedded, SparsityConfig(target=Target(share=0.5), smallest_scale=0.0))
    assert final.sparsity == pytest.approx(2 / 3, abs=0.01)  # all feed-forwards are removed, all attention is kept
    assert final.sparsity == realised_sparsity(embedded.config, final.spec)
    assert 0 < final.shift < 15  # enough to keep all dimensions, and no more


def test_deterministic_gates_realise_the_sparsity_that_they_expect(embedded):
    gates = trained(embedded.spec)
    for _, _, gate in gates.items():
        gate.log_alpha.data.sign_().mul_(30.0)
    final = final_masks(gates, embedded, BARE)
    assert 0.2 < final.sparsity < 0.95
    assert final.sparsity == pytest.approx(float(expected_sparsity(gates, embedded.config).detach()), abs=2e-3)


def test_the_exported_model_has_the_reported_weights(relative_differences):
    encoder = random_encoder(tiny_base(), seed=0)
    final = final_masks(trained(encoder.spec), encoder, BARE)
    small = export_compact(encoder, final.masks, final.spec)
    names = [f"{m}.weight" for m in ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")]
    weights = sum(p.numel() for n, p in small.named_parameters() if ".".join(n.split(".")[-2:]) in names)
    assert 1 - weights / (3 * (4 * 24**2 + 2 * 24 * 20)) == pytest.approx(final.sparsity)
    encoder.set_masks(final.masks)
    with torch.no_grad():
        states = [model(torch.randn(1, 900, generator=torch.Generator().manual_seed(0))) for model in (small, encoder)]
    assert max(relative_differences(*(s.hidden_states for s in states))) <= 2e-5
    assert CompactSpec.dense(encoder.config) != final.spec
