"""Units that the masks scale to almost nothing are counted, and are never exported."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s3prl_pruned.export.inert import inert_share, unit_scales, without_inert
from s3prl_pruned.export.masks import export_compact, final_masks
from s3prl_pruned.gates.attach import GateConfig, GateSet
from s3prl_pruned.models.compact import surviving_spec
from s3prl_pruned.models.dummies import random_encoder, tiny_base
from s3prl_pruned.models.families import wavlm_embedded
from s3prl_pruned.models.masks import Masks
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.config import Target
from s3prl_pruned.sparsity.counts import realised_sparsity
from s3prl_pruned.sparsity.lagrangian import SparsityConfig
from s3prl_pruned.sparsity.quantities import INERT

SHAPE = tiny_base()
DENSE = CompactSpec.dense(SHAPE)
HEADS, DIMS, FFN = SHAPE.num_heads, SHAPE.head_dim, SHAPE.ffn_dim


def masks_of(seed, kinds=("mha", "qk", "vo", "head", "ffn", "int", "conv")):
    """Random masks; about a third are 0, and a third are between 0 and 0.1."""
    gates, generator = GateSet(DENSE, GateConfig(kinds=kinds), SHAPE), torch.Generator().manual_seed(seed)
    z = torch.rand(gates.log_alpha.shape, generator=generator) ** 2
    z[torch.rand(z.shape, generator=generator) < 0.3] = 0
    return Masks(gates.table, z)


def test_the_scale_of_a_unit_is_the_product_of_its_masks():
    masks = masks_of(0)
    scales, mha, ffn = unit_scales(masks, DENSE), masks[1, "z_mha"], masks[1, "z_ffn"]
    for h in range(HEADS):
        head = masks[1, "z_head"][h]
        for d in range(h * DIMS, (h + 1) * DIMS):
            assert scales[1, "z_vo"][d] == pytest.approx(float(masks[1, "z_vo"][d] * head * mha))
        assert scales[1, "z_head"][h] == pytest.approx(float(head * mha))
    assert torch.equal(scales[1, "z_qk"], masks[1, "z_qk"]) and torch.equal(scales[1, "z_mha"], mha)
    torch.testing.assert_close(scales[1, "z_int"], masks[1, "z_int"] * ffn)
    assert torch.equal(scales[2, "z_conv"], masks[2, "z_conv"])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), smallest=st.sampled_from([0.0, INERT, 0.2]))
def test_units_below_the_limit_are_removed_and_all_others_kept(seed, smallest):
    masks = masks_of(seed)
    left, scales = without_inert(masks, DENSE, smallest), unit_scales(masks, DENSE)
    for (i, name), z in left.items():
        stays = (scales[i, name] >= smallest) | (torch.tensor(name in ("z_mha", "z_ffn")))
        if name == "z_conv" and not stays.any():
            stays = scales[i, name] == scales[i, name].max()
        assert torch.equal(z, torch.where(stays, masks[i, name], 0.0)), name


def test_the_inert_share_is_relative_to_the_exported_weights():
    masks = masks_of(1)
    encoder = random_encoder(SHAPE, seed=0)

    def weights(of):
        spec = surviving_spec(DENSE, of, shape=SHAPE)
        small = export_compact(encoder, of, spec)
        maps = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "feature_projection.projection")
        names = [f"{name}.weight" for name in maps]
        return sum(
            p.numel()
            for name, p in small.named_parameters()
            if name.endswith(tuple(names)) or (name.startswith("feature_extractor.") and name.endswith("conv.weight"))
        )

    expected = 1 - weights(without_inert(masks, DENSE)) / weights(masks)
    assert 0.05 < expected < 0.95
    assert inert_share(masks, DENSE, SHAPE) == pytest.approx(expected)
    assert inert_share(without_inert(masks, DENSE), DENSE, SHAPE) == 0
    nothing = Masks(masks.table, torch.zeros_like(masks.flat))
    assert inert_share(nothing, DENSE, SHAPE) == 0


def closed_gates(kinds, limit=4.605):
    """Four in five gates of dimensions are at the lower limit, the others are open, as after training."""
    shape = wavlm_embedded()
    gates, generator = (
        GateSet(CompactSpec.dense(shape), GateConfig(kinds=kinds), shape),
        torch.Generator().manual_seed(0),
    )
    for _, name, gate in gates.items():
        draw = torch.rand(gate.log_alpha.shape, generator=generator)
        gate.log_alpha.data.copy_(torch.where((draw < 0.2) | (name in ("z_mha", "z_ffn")), limit, -limit))
    return gates


@pytest.mark.parametrize("kinds", [("mha", "qk", "vo", "ffn", "int"), ("mha", "head", "ffn", "int")], ids="-".join)
def test_a_closed_gate_is_not_exported_although_its_probability_is_not_zero(kinds):
    """At log_alpha = -4.605, P(z > 0) is 0.047: rounding alone would keep that share of the closed gates."""
    gates, shape = closed_gates(kinds), wavlm_embedded()
    with torch.device("meta"):
        encoder = random_encoder(shape, seed=0)
    bare = SparsityConfig(match_target=False, smallest_scale=0.0)
    assert inert_share(final_masks(gates, encoder, bare).masks, gates.spec, shape) > 0.1
    final = final_masks(gates, encoder, SparsityConfig(match_target=False))
    assert inert_share(final.masks, gates.spec, shape) == 0
    open_ones = Masks(gates.table, (gates.log_alpha.detach() > 0).float())
    assert final.spec == surviving_spec(gates.spec, open_ones)
    assert final.sparsity == realised_sparsity(shape, final.spec)


def test_units_that_come_back_to_meet_a_target_are_not_inert():
    """All units that compute with their learned value are fewer than the target wants."""
    gates, shape = closed_gates(("mha", "qk", "vo", "ffn", "int"), limit=3.3), wavlm_embedded()  # soft value 0.019
    gates.log_alpha.data.add_(0.01 * torch.rand(gates.log_alpha.shape, generator=torch.Generator().manual_seed(1)))
    with torch.device("meta"):
        encoder = random_encoder(shape, seed=0)
    bare = final_masks(gates, encoder, SparsityConfig(match_target=False))
    final = final_masks(gates, encoder, SparsityConfig(target=Target(share=0.6)))
    assert bare.sparsity > 0.75 and abs(final.sparsity - 0.6) <= 0.002 and final.shift > 0
    assert inert_share(final.masks, gates.spec, shape) == 0
    returned = final.masks.flat[(bare.masks.flat == 0) & (final.masks.flat > 0)]
    assert len(returned) and returned.min() >= 0.02
