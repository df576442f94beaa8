"""Attention of ragged heads, masks, gate and position bias against formulas written out head by head, in float64."""

import math

import pytest
import torch
from torch.nn.functional import pad

from s3prl_pruned.models.attention import PositionGate, RaggedHeads, SelfAttention
from s3prl_pruned.models.components import RelativePosition
from s3prl_pruned.models.dummies import random_encoder, random_masks, tiny_base
from s3prl_pruned.models.spec import CompactSpec, HeadSpec, LayerSpec

CONFIG = tiny_base(num_layers=1)
K = CONFIG.head_dim
RAGGED = (
    HeadSpec(index=0, qk=(0, 1, 2, 3, 4, 5), vo=(2,)),
    HeadSpec(index=2, qk=(), vo=(0, 1, 2, 3, 5)),
    HeadSpec(index=3, qk=(4,), vo=(1, 3, 4)),
)
EVEN = tuple(HeadSpec(index=h, qk=(1, 4), vo=(0, 2, 3)) for h in (1, 3))
DENSE = CompactSpec.dense(CONFIG).layers[0].heads
NO_SCORES = tuple(HeadSpec(index=h, qk=(), vo=(0, h)) for h in (1, 2))
HEADS = {"ragged": RAGGED, "even": EVEN, "dense": DENSE, "position bias alone": NO_SCORES}


def attention_with(heads):
    layer = LayerSpec(attention=True, heads=heads, feed_forward=True, ffn=(0,))
    encoder = random_encoder(CONFIG, seed=7, spec=CompactSpec(layers=(layer,))).double()
    return encoder.layers[0].attention


def softmax_attention(attention, heads, x, bias, padding, *, z_qk=None, z_vo=None, z_head=None, z_mha=None):
    """Wang et al. 2023, eq. 3, with WavLM's gated bias; one head after the other, softmax by hand. (B, T, D)."""
    (wq, bq), (wk, bk), (wv, bv), (wo, bo) = (
        (linear.weight, linear.bias)
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
    )
    gate = attention.gate
    out, qk, vo = bo.expand_as(x), 0, 0
    for number, head in enumerate(heads):
        dims, values = slice(qk, qk + len(head.qk)), slice(vo, vo + len(head.vo))
        qk, vo = dims.stop, values.stop
        query, key = x @ wq[dims].T + bq[dims], x @ wk[dims].T + bk[dims]
        if z_qk is not None:
            query = query * z_qk[dims]
        scores = query @ key.transpose(1, 2) / math.sqrt(K)
        slot = x[..., head.index * K : (head.index + 1) * K]  # the layer's input, not the projected query
        eight = slot @ gate.projection.weight.T + gate.projection.bias
        a, b = eight[..., :4].sum(-1).sigmoid(), eight[..., 4:].sum(-1).sigmoid()
        scores = scores + (a * (b * gate.scale[number] - 1) + 2)[..., None] * bias[head.index]
        weights = scores.exp() * ~padding[:, None, :]
        context = weights / weights.sum(-1, keepdim=True) @ (x @ wv[values].T + bv[values])
        if z_vo is not None:
            context = context * z_vo[values]
        if z_head is not None:
            context = context * z_head[number]
        out = out + context @ wo[:, values].T
    return out if z_mha is None else out * z_mha


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 11, CONFIG.embed_dim, generator=generator, dtype=torch.float64)
    bias = torch.randn(CONFIG.num_heads, 11, 11, generator=generator, dtype=torch.float64)
    padding = torch.arange(11) >= torch.tensor([[11], [7]])
    return x, bias, padding


@torch.no_grad()
@pytest.mark.parametrize(
    "kinds",
    [(), ("mha", "qk", "vo"), ("mha", "head"), ("mha", "head", "qk", "vo")],
    ids=["none", "fine", "heads", "both"],
)
@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
def test_attention_equals_the_softmax_formula_head_by_head(heads, kinds, inputs):
    x, bias, padding = inputs
    attention = attention_with(heads)
    layer = LayerSpec(attention=True, heads=heads, feed_forward=True, ffn=(0,))
    for seed in range(5):
        masks = random_masks(CompactSpec(layers=(layer,)), seed=seed, kinds=kinds)
        slots = {name: z for (_, name), z in masks.items()}
        for name, z in slots.items():
            setattr(attention, name, z)
        expected = softmax_attention(attention, heads, x, bias, padding, **slots)
        assert (attention(x, bias, padding) - expected).abs().max() < 1e-12
    if not kinds:
        halved = softmax_attention(attention, heads, x, bias / 2, padding)
        assert (halved - expected).abs().max() > 1e-2


@torch.no_grad()
def test_attention_without_heads_is_its_output_bias(inputs):
    x, bias, padding = inputs
    attention = attention_with(())
    attention.z_mha = torch.tensor([0.7])
    expected = attention.out_proj.bias.expand_as(x) * attention.z_mha
    assert torch.equal(attention(x, bias, padding), expected)
    assert expected.abs().max() > 0.1


@torch.no_grad()
def test_without_bias_and_padding_it_is_plain_attention(inputs):
    x, bias, padding = inputs
    attention = attention_with(RAGGED)
    expected = softmax_attention(attention, RAGGED, x, torch.zeros_like(bias), torch.zeros_like(padding))
    assert (attention(x) - expected).abs().max() < 1e-12


@torch.no_grad()
def test_a_padded_frame_is_attended_to_by_nobody(inputs):
    x, bias, padding = inputs
    attention = attention_with(RAGGED)
    changed = x.clone()
    changed[1, 7:] += 1.0
    for extra in (bias, None):
        before, after = attention(x, extra, padding), attention(changed, extra, padding)
        assert torch.equal(before[0], after[0])
        assert torch.equal(before[1, :7], after[1, :7])
        assert not torch.equal(attention(x, extra)[1, :7], attention(changed, extra)[1, :7])


def test_split_and_merge_of_ragged_heads_are_inverse():
    for sizes in ([3, 0, 2], [0, 0], [4, 4], [1], [2, 5, 5]):
        ragged = RaggedHeads(sizes)
        flat = torch.arange(1.0, 1 + 2 * 3 * sum(sizes)).view(2, 3, sum(sizes))
        split = ragged.split(flat)
        width = max(1, max(sizes))
        expected = torch.stack([pad(part, (0, width - part.shape[-1])) for part in flat.split(sizes, -1)], dim=1)
        assert torch.equal(split, expected)
        assert torch.equal(ragged.merge(split), flat)


def test_the_gate_reads_the_slot_of_the_original_head():
    gate = PositionGate(CONFIG, [1, 3])
    x = torch.randn(1, 5, CONFIG.embed_dim)
    for head, changes in enumerate(([0, 0], [1, 0], [0, 0], [0, 1])):
        touched = x.clone()
        touched[..., head * K : (head + 1) * K] += 1
        assert (gate(x) != gate(touched)).any(dim=2).flatten().int().tolist() == changes


@pytest.mark.parametrize("num_frames", [1, 2, 40])
def test_the_position_bias_is_one_value_per_head_and_distance(num_frames):
    position = RelativePosition(CONFIG)
    bias = position(num_frames)
    assert bias.shape == (CONFIG.num_heads, num_frames, num_frames)
    for query in range(num_frames):
        for key in range(num_frames):
            bucket = position.buckets(torch.tensor(key - query))
            assert torch.equal(bias[:, query, key], position.embedding.weight[bucket])


def test_the_softmax_scale_is_that_of_the_original_head_dim():
    assert SelfAttention(CONFIG, EVEN).scale == pytest.approx(6**-0.5)


def test_a_printed_layer_shows_its_heads_and_sizes():
    text = repr(attention_with(RAGGED))
    assert "heads=[0, 2, 3], qk=[6, 0, 1], vo=[1, 5, 3]" in text
