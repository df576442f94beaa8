"""Which heads and rows are pruned: their scores, how many, and which are kept whatever their scores."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from s3prl_pruned.compressors.heads import HeadImportance, l1_scores
from s3prl_pruned.compressors.rows import row_scores
from s3prl_pruned.compressors.units import head_costs, row_costs, weakest
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base
from s3prl_pruned.models.linear import output_side
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.counts import prunable_weights
from tests.models.test_low_rank import factored

CONFIG = tiny_base()  # 3 layers, 4 heads of 6 dims, FFN 20


def test_the_weakest_of_all_layers_are_pruned_but_never_a_layers_last():
    scores = [torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4]), torch.tensor([5.0, 6.0])]
    costs = [[10, 10]] * 3
    alive = weakest(scores, costs, 20, even=False, keep=1)
    assert [mask.tolist() for mask in alive] == [[False, True], [False, True], [True, True]]
    alive = weakest(scores, costs, 1000, even=False, keep=1)
    assert [mask.tolist() for mask in alive] == [[False, True]] * 3


def test_equally_many_are_pruned_in_each_layer_if_asked_for():
    scores = [torch.tensor([0.1, 0.2, 0.3]), torch.tensor([7.0, 9.0, 8.0])]
    alive = weakest(scores, [[10, 10, 10]] * 2, 30, even=True, keep=0)
    assert [mask.tolist() for mask in alive] == [[False, False, True], [False, True, True]]
    assert not any(mask.any() for mask in weakest(scores, [[10, 10, 10]] * 2, 60, even=True, keep=0))


@pytest.mark.parametrize("even", [True, False])
def test_pruned_units_stay_pruned_and_the_nearest_number_of_weights_is_removed(even):
    generator = torch.Generator().manual_seed(0)
    costs, alive = [[10] * 6] * 4, [torch.ones(6, dtype=torch.bool)] * 4
    for wanted in (0, 14, 16, 55, 120, 190):
        scores = [torch.rand(6, generator=generator).masked_fill(~mask, -torch.inf) for mask in alive]
        now = weakest(scores, costs, wanted, even=even, keep=1)
        assert all((after <= before).all() for before, after in zip(alive, now))
        assert sum(int((~mask).sum()) for mask in now) == round(wanted / 10)
        alive = now


@pytest.mark.parametrize(
    "spec",
    [CompactSpec.dense(CONFIG), random_spec(CONFIG, seed=3), factored(CONFIG)],
    ids=["dense", "ragged", "factors"],
)
def test_costs_are_the_weights_that_removing_a_unit_saves(spec):
    """Measured on the structure without it."""
    for number, layer in enumerate(spec.layers):

        def weights(changed, number=number):
            layers = (*spec.layers[:number], changed, *spec.layers[number + 1 :])
            return prunable_weights(CONFIG, CompactSpec(layers=layers))

        for i, cost in enumerate(head_costs(layer, CONFIG.embed_dim)):
            assert cost == weights(layer) - weights(replace(layer, heads=layer.heads[:i] + layer.heads[i + 1 :])) > 0
        for i, cost in enumerate(row_costs(layer, CONFIG.embed_dim)):
            assert cost == weights(layer) - weights(replace(layer, ffn=layer.ffn[:i] + layer.ffn[i + 1 :])) > 0


@pytest.mark.parametrize("spec", [None, random_spec(CONFIG, seed=5)], ids=["dense", "ragged"])
def test_l1_scores_are_sums_written_out(spec):
    encoder = random_encoder(CONFIG, seed=0, spec=spec).requires_grad_(False)
    for layer, scores in zip(encoder.layers, l1_scores(encoder), strict=True):
        if layer.attention is None:
            assert not len(scores)
            continue
        attention = layer.attention
        for head in range(len(attention.heads.values)):
            total = 0.0
            qk, vo = attention.qk_heads.sizes, attention.vo_heads.sizes
            for module, sizes in ((attention.q_proj, qk), (attention.k_proj, qk), (attention.v_proj, vo)):
                for row in range(sum(sizes[:head]), sum(sizes[: head + 1])):
                    total += sum(abs(float(w)) for w in module.weight[row]) + abs(float(module.bias[row]))
            assert float(scores[head]) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("spec", [None, factored(CONFIG)], ids=["dense", "factors"])
def test_row_scores_are_sums_written_out(spec):
    encoder = random_encoder(CONFIG, seed=1, spec=spec).requires_grad_(False)
    scores = row_scores(encoder)
    unit = torch.eye(CONFIG.embed_dim)
    for layer, of_layer in zip(encoder.layers, scores, strict=True):
        fc1, fc2 = layer.feed_forward.fc1, layer.feed_forward.fc2
        with torch.no_grad():  # the columns of a map are its outputs for unit vectors
            rows = (fc1(unit) - fc1(torch.zeros(1, CONFIG.embed_dim))).T
            columns = fc2(torch.eye(20)) - fc2(torch.zeros(1, 20))
        for i in (0, 7, 19):
            expected = rows[i].abs().sum() + output_side(fc1).bias[i].abs() + columns[i].abs().sum()
            assert float(of_layer[i]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("spec", [None, random_spec(CONFIG, seed=8)], ids=["dense", "ragged"])
def test_importance_of_one_frame_is_the_gradient_of_the_heads_mask(spec):
    """Over one frame the sum of |gradient x context| is |dL/dz_head|, which autograd computes in another way."""
    encoder = random_encoder(CONFIG, seed=2, spec=spec)
    wavs = torch.randn(1, 130, generator=torch.Generator().manual_seed(0))  # one frame

    def loss():
        return sum(state.square().sum() for state in encoder(wavs).hidden_states)

    assert encoder(wavs).hidden_states[0].shape[1] == 1
    with HeadImportance(encoder) as importance:
        importance.add(loss())
        importance.add(2 * loss())
    assert all(p.grad is None for p in encoder.parameters())
    sizes = [len(layer.attention.heads.values) if layer.attention else 0 for layer in encoder.layers]
    leaves = [torch.ones(size, requires_grad=True) if size else None for size in sizes]
    encoder.set_masks({(i, "z_head"): leaf for i, leaf in enumerate(leaves) if leaf is not None})
    loss().backward()
    for size, leaf, total, unit in zip(sizes, leaves, importance.sums, importance.scores(), strict=True):
        if size:
            torch.testing.assert_close(total, 3 * leaf.grad.abs(), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(unit, leaf.grad.abs() / leaf.grad.norm(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_importance_is_summed_in_single_precision(dtype):
    """200,000 frames of about 1 each: a sum too large for fp16, and too fine for bfloat16."""
    encoder = random_encoder(CONFIG, seed=2)
    attention = encoder.layers[0].attention
    context = torch.ones(1, 200_000, sum(attention.vo_heads.sizes), dtype=dtype, requires_grad=True)
    with HeadImportance(encoder) as importance:
        importance._contexts[0] = context
        importance.add((context / 6).sum(dtype=torch.float32))  # heads of six dimensions
    torch.testing.assert_close(importance.sums[0], torch.full((4,), 200_000.0), rtol=4e-3, atol=0)


def test_importance_is_summed_over_frames_by_absolute_value():
    """More than the mask's gradient, in which frames cancel; and the same with activation checkpointing."""
    encoder = random_encoder(CONFIG, seed=2).train()
    wavs = torch.randn(2, 2000, generator=torch.Generator().manual_seed(1))

    def sums():
        with HeadImportance(encoder) as importance:
            importance.add(encoder(wavs).hidden_states[-1].sum(-1).square().sum())
        return importance.sums

    plain = sums()
    for layer in encoder.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    for a, b in zip(plain, sums(), strict=True):
        torch.testing.assert_close(a, b)
    assert all((total > 0).all() for total in plain)
