"""Gates with `dims_multiple` end in multiples or whole heads, at the target, and by the stated rule."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s3prl_pruned.config import UserError
from s3prl_pruned.export.inert import inert_share
from s3prl_pruned.export.masks import export_compact, final_masks
from s3prl_pruned.formats import registry
from s3prl_pruned.gates.attach import GateConfig, GateSet
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base, tiny_families
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.families import wavlm_embedded
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.config import CnnTarget, Target
from s3prl_pruned.sparsity.counts import realised_sparsity
from s3prl_pruned.sparsity.lagrangian import SparsityConfig

FULL, WITH_CNN, BOTH = (
    ("mha", "qk", "vo", "ffn", "int"),
    ("qk", "vo", "int", "conv"),
    ("mha", "qk", "vo", "head", "int"),
)
NO_FAHP = ("mha", "head", "ffn", "int")
SHAPE = tiny_base(embed_dim=32, num_heads=2, ffn_dim=40, conv_layers=((8, 10, 5), (16, 3, 2), (12, 2, 2)))
UNMATCHED = SparsityConfig(match_target=False)


def trained(spec, shape, *, kinds=FULL, multiple=8, seed=0, mean=-0.5, closed=0.4):
    """Gates as after training: a share of them is at the lower limit, and hardly any sublayer is removed."""
    gates = GateSet(spec, GateConfig(kinds=kinds, dims_multiple=multiple), shape)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, name, gate in gates.items():
            whole = name in ("z_mha", "z_ffn")
            values = mean + 2 * torch.randn(gate.log_alpha.shape, generator=generator)
            shut = torch.rand(gate.log_alpha.shape, generator=generator) < closed * (not whole)
            gate.log_alpha.copy_(torch.where(shut, -7.0, values + 1.5 * whole).clamp(-7, 7))
    return gates


def counts(kept):
    """Kept units in each group of a structure."""
    of_heads = [len(dims) for layer in kept.layers for head in layer.heads for dims in (head.qk, head.vo)]
    channels = [len(layer) for layer in kept.channels] if kept.channels else []
    return of_heads + [len(layer.ffn) for layer in kept.layers] + channels


def soft(log_alpha):
    return 1 / (1 + math.exp(-0.8 * log_alpha / (2 / 3)))


def by_the_rule(log_alpha, louder, multiple, *, at_least=0):
    """Masks of one group, in plain Python; `louder` is the product of the masks of its head and sublayer."""
    probability = [1 / (1 + math.exp(-(a - 2 / 3 * math.log(0.1 / 1.1)))) for a in log_alpha]
    living = [soft(a) * louder >= 0.02 for a in log_alpha]
    nearest = multiple * math.floor(sum(probability) / multiple + 0.5)
    begun = multiple * math.ceil(sum(living) / multiple)
    number = max(at_least, min(nearest, begun, multiple * (len(log_alpha) // multiple)))
    order = sorted(range(len(log_alpha)), key=lambda i: (-log_alpha[i], i))[:number]
    own = [soft(log_alpha[i]) for i in order if living[i]]
    filled = sum(own) / len(own) if own else soft(max(log_alpha))
    return [(soft(a) if living[i] else filled) if i in order else 0.0 for i, a in enumerate(log_alpha)]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kinds=st.sampled_from([FULL, WITH_CNN, BOTH]),
    multiple=st.sampled_from([2, 4, 8]),
    pruned_before=st.booleans(),
)
def test_every_mask_follows_the_rule(seed, kinds, multiple, pruned_before):
    spec = CompactSpec.dense(SHAPE)
    if pruned_before:
        spec = random_spec(SHAPE, seed=seed)
    encoder = SpeechEncoder(SHAPE, spec)
    gates = trained(spec, SHAPE, kinds=kinds, multiple=multiple, seed=seed)
    masks = final_masks(gates, encoder, UNMATCHED).masks
    assert list(masks) == list(gates.table.sizes)
    of_slot = {(i, name): gate.log_alpha.tolist() for i, name, gate in gates.items()}
    for (i, name), log_alpha in of_slot.items():
        if name in ("z_mha", "z_ffn", "z_head"):
            continue
        heads, dims = spec.layers[i].heads if name in ("z_qk", "z_vo") else (), name[2:]
        sizes = [len(getattr(head, dims)) for head in heads] or [len(log_alpha)]
        whole = masks.get((i, {"z_vo": "z_mha", "z_int": "z_ffn"}.get(name)), torch.ones(1)).item()
        of_heads = masks[i, "z_head"].tolist() if name == "z_vo" and (i, "z_head") in masks else [1.0] * len(sizes)
        expected, start = [], 0
        for size, of_head in zip(sizes, of_heads):
            group = log_alpha[start : start + size]
            if size:
                expected += by_the_rule(group, whole * of_head, multiple, at_least=multiple * (name == "z_conv"))
            start += size
        assert masks[i, name].tolist() == pytest.approx(expected, abs=1e-6), (i, name)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kinds=st.sampled_from([FULL, WITH_CNN, BOTH]),
    multiple=st.sampled_from([2, 4, 8]),
    target=st.sampled_from([0.3, 0.6, 0.8]),
    pruned_before=st.booleans(),
)
def test_kept_units_are_in_multiples_are_not_inert_and_are_exported(
    relative_differences, seed, kinds, multiple, target, pruned_before
):
    encoder = random_encoder(SHAPE, seed=seed, spec=random_spec(SHAPE, seed=seed) if pruned_before else None)
    gates = trained(encoder.spec, SHAPE, kinds=kinds, multiple=multiple, seed=seed)
    final = final_masks(gates, encoder, SparsityConfig(target=Target(share=target)))
    assert [count for count in counts(final.spec) if count % multiple] == []
    assert inert_share(final.masks, encoder.spec, SHAPE) == 0
    assert final.sparsity == realised_sparsity(SHAPE, final.spec)
    encoder = encoder.double()
    small = export_compact(encoder, final.masks, final.spec)
    encoder.set_masks(final.masks.to(torch.float64))
    wavs = torch.randn(1, 900, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad():
        states = [model(wavs).hidden_states for model in (small, encoder)]
    assert max(relative_differences(*states)) <= 1e-9


def test_masked_and_exported_differ_if_a_filled_unit_is_left_out(relative_differences):
    """The comparison above can fail."""
    encoder = random_encoder(SHAPE, seed=0)
    final = final_masks(trained(encoder.spec, SHAPE), encoder, UNMATCHED)
    other = copy.deepcopy(final.masks)
    slot = next((i, name) for (i, name), z in other.items() if name == "z_int" and z.any())
    other[slot][int(other[slot].argmax())] = 0
    with torch.no_grad():
        small = export_compact(encoder, final.masks, final.spec)
        encoder.set_masks(other)
        states = [model(torch.randn(1, 900)).hidden_states for model in (small, encoder)]
    assert max(relative_differences(*states)) > 1e-3


@pytest.fixture(scope="module")
def embedded():
    """The embedded teacher's shape, without weights."""
    with torch.device("meta"):
        return SpeechEncoder(wavlm_embedded())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("multiple", [8, 16])
@pytest.mark.parametrize(("mean", "target"), [(-0.5, 0.8), (-3.0, 0.85), (1.0, 0.4)])
def test_a_target_is_met_within_the_tolerance_in_spite_of_multiples(embedded, mean, target, multiple, seed):
    gates = trained(embedded.spec, embedded.config, multiple=multiple, mean=mean, seed=seed)
    for _, name, gate in gates.items():  # no layer may be removed, so that any target can be met
        if name in ("z_mha", "z_ffn"):
            gate.log_alpha.data.clamp_(min=0.5)
    bare = final_masks(gates, embedded, SparsityConfig(target=Target(share=target), match_target=False))
    final = final_masks(gates, embedded, SparsityConfig(target=Target(share=target)))
    assert abs(bare.sparsity - target) > 0.002
    assert abs(final.sparsity - target) <= 0.002 and final.rounded_sparsity == bare.sparsity
    assert not any(count % multiple for count in counts(final.spec))


@pytest.mark.parametrize("seed", range(4))
def test_attention_keeps_whole_heads_only_and_the_ffn_meets_the_target(embedded, seed):
    """A head is 1.4 % of sparsity, so FFN dimensions get a shift of their own."""
    gates = trained(embedded.spec, embedded.config, multiple="head", seed=seed, mean=0.5, closed=0.1)
    for _, name, gate in gates.items():
        if name in ("z_mha", "z_ffn"):
            gate.log_alpha.data.clamp_(min=0.5)
    config, dims = SparsityConfig(target=Target(share=0.6)), tuple(range(64))
    final = final_masks(gates, embedded, config)
    heads = [head for layer in final.spec.layers for head in layer.heads]
    assert 0 < len(heads) < 24 and all(head.qk == head.vo == dims for head in heads)
    assert abs(final.sparsity - 0.6) <= 0.002
    plain = GateSet(embedded.spec, GateConfig(kinds=NO_FAHP), embedded.config)
    plain.log_alpha.data.copy_(gates.log_alpha.detach())
    without = final_masks(plain, embedded, config)
    assert (without.ffn_shift != 0) == (final.ffn_shift != 0)
    if final.ffn_shift == 0:
        assert [la.heads for la in final.spec.layers] == [la.heads for la in without.spec.layers]


def test_a_sublayer_without_heads_or_dimensions_is_removed_with_its_bias(relative_differences):
    """Only with whole heads; otherwise the output bias would be kept."""
    encoder = random_encoder(SHAPE, seed=0)
    found = {}
    for multiple in ("head", None):
        gates = GateSet(encoder.spec, GateConfig(kinds=NO_FAHP, dims_multiple=multiple), SHAPE)
        for i, name, gate in gates.items():
            gate.log_alpha.data.fill_(-7.0 if (i, name) in ((0, "z_head"), (1, "z_int")) else 7.0)
        found[multiple] = final_masks(gates, encoder, UNMATCHED)
    whole, plain = found["head"].spec.layers, found[None].spec.layers
    assert [layer.attention for layer in whole] == [False, True, True] and all(layer.attention for layer in plain)
    assert [layer.feed_forward for layer in whole] == [True, False, True] and all(la.feed_forward for la in plain)
    assert found["head"].sparsity == found[None].sparsity
    small = export_compact(encoder, found["head"].masks, found["head"].spec).double()
    wavs = torch.randn(1, 900, dtype=torch.float64)
    states = {}
    with torch.no_grad():
        for multiple, final in found.items():
            encoder.double().set_masks(final.masks.to(torch.float64))
            states[multiple] = relative_differences(small(wavs).hidden_states, encoder(wavs).hidden_states)
    assert max(states["head"]) <= 1e-6 < 1e-3 < max(states[None])


@pytest.mark.parametrize(("name", "model"), [("dphubert", "hubert_base"), ("diarizen", "wavlm_base")])
def test_formats_of_whole_heads_hold_models_of_such_gates_and_refuse_others(tmp_path, name, model):
    """Their writers read the written file again and compare it with its source."""
    shape = tiny_families()[model]
    encoder = random_encoder(shape, seed=0)
    for multiple in ("head", 2):
        gates = trained(encoder.spec, shape, multiple=multiple, seed=1, mean=0.5)
        for i, slot, gate in gates.items():
            if slot == "z_mha" or (i, slot) in ((1, "z_head"), (2, "z_int")):
                gate.log_alpha.data.fill_(7.0 if slot == "z_mha" else -7.0)
        final = final_masks(gates, encoder, UNMATCHED)
        small = export_compact(encoder, final.masks, final.spec)
        if multiple == "head":
            heads = [len(layer.heads) for layer in final.spec.layers]
            assert not final.spec.layers[1].attention and heads[1] == 0 and {1, 2, 3} & set(heads)
            registry.write(tmp_path / "whole", name, small)
            assert (tmp_path / "whole").exists()
        else:
            with pytest.raises(UserError, match="holds whole heads of 6 dimensions only"):
                registry.write(tmp_path / "cut", name, small)


def test_heads_without_dimension_gates_are_made_up_for_by_the_ffn_too(embedded):
    shifts = []
    for seed in range(4):
        gates = trained(embedded.spec, embedded.config, kinds=NO_FAHP, multiple=None, seed=seed, mean=0.5, closed=0.1)
        final = final_masks(gates, embedded, SparsityConfig(target=Target(share=0.6)))
        assert abs(final.sparsity - 0.6) <= 0.002
        shifts.append(final.ffn_shift)
    assert any(shifts) and not all(shifts), "heads alone meet the target, or they do not"


def test_the_channels_meet_a_target_of_their_own_in_multiples(embedded):
    kinds = (*FULL, "conv")
    gates = trained(embedded.spec, embedded.config, kinds=kinds, multiple=8, mean=1.0, closed=0.1)
    config = SparsityConfig(target=Target(share=0.6), cnn_target=CnnTarget(share=0.5))
    final = final_masks(gates, embedded, config)
    assert final.spec.channels is not None and all(len(layer) % 8 == 0 for layer in final.spec.channels)
    assert not any(count % 8 for count in counts(final.spec))
    assert abs(final.reached - 0.6) <= 0.002 and final.cnn_shift not in (0, final.shift)


def test_with_all_gates_closed_a_cnn_layer_keeps_one_multiple_and_an_ffn_nothing():
    gates = GateSet(CompactSpec.dense(SHAPE), GateConfig(kinds=("int", "conv"), dims_multiple=4), SHAPE)
    gates.log_alpha.data.fill_(-7.0)
    final = final_masks(gates, SpeechEncoder(SHAPE), UNMATCHED)
    assert final.spec.channels == (tuple(range(4)),) * 3 and {len(layer.ffn) for layer in final.spec.layers} == {0}


def test_groups_of_the_positional_convolution_are_in_no_multiples():
    shape = tiny_base(embed_dim=32, num_heads=2, pos_conv_groups=16)
    for multiple in (4, "head"):
        gates = trained(CompactSpec.dense(shape), shape, kinds=(*FULL, "pos"), multiple=multiple, seed=1)
        log_alpha = gates.table.split(gates.log_alpha.detach())[0, "z_pos"].tolist()
        final = final_masks(gates, SpeechEncoder(shape), UNMATCHED)
        assert final.masks[0, "z_pos"].tolist() == pytest.approx(by_the_rule(log_alpha, 1.0, 1), abs=1e-6)
        assert 0 < len(final.spec.position_groups) < 16 and len(final.spec.position_groups) % 4


def test_multiples_that_are_too_coarse_miss_the_target():
    """In a tiny encoder, eight dimensions are several percent: the nearest structure is taken and reported."""
    encoder = SpeechEncoder(SHAPE)
    gates = trained(encoder.spec, SHAPE, kinds=("qk", "vo", "int"))
    final = final_masks(gates, encoder, SparsityConfig(target=Target(share=0.6)))
    step = 8 * 2 * 32 / (3 * (4 * 32**2 + 2 * 32 * 40))
    assert 0.002 < abs(final.sparsity - 0.6) <= step / 2 + 0.002
    assert final.sparsity == realised_sparsity(SHAPE, final.spec)


def test_units_that_come_back_in_multiples_compute(embedded):
    """With their learned values, fewer units compute than the target wants: that of a closed gate is 0.019."""
    gates = GateSet(embedded.spec, GateConfig(kinds=FULL, dims_multiple=8), embedded.config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, name, gate in gates.items():
            draws = torch.rand(gate.log_alpha.shape, generator=generator)
            is_open = (draws < 0.2) | (name in ("z_mha", "z_ffn"))
            gate.log_alpha.copy_(torch.where(is_open, 3.3, -3.3) + 0.01 * draws)
    assert final_masks(gates, embedded, UNMATCHED).sparsity > 0.7
    final = final_masks(gates, embedded, SparsityConfig(target=Target(share=0.5)))
    assert abs(final.sparsity - 0.5) <= 0.002 and final.shift > 0
    assert inert_share(final.masks, gates.spec, embedded.config) == 0
