"""Slicing an encoder keeps the same weights, and nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s3prl_pruned.config import UserError
from s3prl_pruned.models.compact import compact
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base, tiny_large, tiny_peculiar, tiny_whispers
from s3prl_pruned.models.spec import CompactSpec, HeadSpec, LayerSpec

CONFIG = tiny_base()


def states_equal(a, b):
    return a.state_dict().keys() == b.state_dict().keys() and all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values())
    )


def within(spec, config, *, seed):
    """A random structure that keeps only what `spec` keeps."""

    def layer(old, other):
        others = {head.index: head for head in other.heads}

        def head(h):
            both = others[h.index]
            return HeadSpec(
                index=h.index,
                qk=tuple(d for d in h.qk if d in both.qk),
                vo=tuple(d for d in h.vo if d in both.vo),
            )

        return LayerSpec(
            attention=old.attention and other.attention,
            heads=tuple(head(h) for h in old.heads if h.index in others),
            feed_forward=old.feed_forward and other.feed_forward,
            ffn=tuple(d for d in old.ffn if d in other.ffn),
        )

    other = random_spec(config, seed=seed, channels=spec.channels is not None)
    channels = spec.channels and tuple(
        tuple(c for c in old if c in new) or old[:1] for old, new in zip(spec.channels, other.channels)
    )
    return CompactSpec(layers=tuple(layer(*pair) for pair in zip(spec.layers, other.layers)), channels=channels)


def test_keeping_everything_is_a_copy_that_shares_nothing():
    encoder = random_encoder(CONFIG, seed=0)
    same = compact(encoder, encoder.spec)
    assert states_equal(same, encoder)
    with torch.no_grad():
        same.layers[0].attention.q_proj.weight.zero_()
    assert encoder.layers[0].attention.q_proj.weight.abs().min() > 0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), channels=st.booleans())
def test_slicing_twice_is_slicing_once(seed, channels):
    encoder = random_encoder(CONFIG, seed=1)
    first = random_spec(CONFIG, seed=seed, channels=channels)
    second = within(first, CONFIG, seed=seed + 1)
    once = compact(encoder, first)
    assert states_equal(compact(once, first), once)
    assert states_equal(compact(once, second), compact(encoder, second))


def test_every_weight_is_at_its_original_index():
    encoder = random_encoder(CONFIG, seed=2)
    spec = random_spec(CONFIG, seed=12)
    small, k = compact(encoder, spec), CONFIG.head_dim
    checked = 0
    for layer, mine, dense in zip(spec.layers, small.layers, encoder.layers):
        for number, head in enumerate(layer.heads):
            start = sum(len(h.vo) for h in layer.heads[:number])
            for i, d in enumerate(head.vo):
                row = head.index * k + d
                assert torch.equal(mine.attention.v_proj.weight[start + i], dense.attention.v_proj.weight[row])
                assert torch.equal(mine.attention.v_proj.bias[start + i], dense.attention.v_proj.bias[row])
                assert torch.equal(
                    mine.attention.out_proj.weight[:, start + i], dense.attention.out_proj.weight[:, row]
                )
            start = sum(len(h.qk) for h in layer.heads[:number])
            for i, d in enumerate(head.qk):
                row = head.index * k + d
                assert torch.equal(mine.attention.q_proj.weight[start + i], dense.attention.q_proj.weight[row])
                assert torch.equal(mine.attention.k_proj.bias[start + i], dense.attention.k_proj.bias[row])
            assert mine.attention.gate.scale[number] == dense.attention.gate.scale[head.index]
            checked += 1
        for i, d in enumerate(layer.ffn):
            assert torch.equal(mine.feed_forward.fc1.weight[i], dense.feed_forward.fc1.weight[d])
            assert torch.equal(mine.feed_forward.fc2.weight[:, i], dense.feed_forward.fc2.weight[:, d])
            checked += 1
    assert checked > 10


CNNS = {"base": tiny_base(), "large": tiny_large(conv_bias=True), **tiny_peculiar(), **tiny_whispers()}


@pytest.mark.parametrize("config", CNNS.values(), ids=CNNS)
def test_every_channel_is_at_its_original_index(config):
    encoder = random_encoder(config, seed=2)
    spec = random_spec(config, seed=3, channels=True)
    small, before = compact(encoder, spec), tuple(range(config.in_channels))
    assert {len(kept) for kept in spec.channels} != {1}
    for kept, mine, dense in zip(
        spec.channels, small.feature_extractor.layers, encoder.feature_extractor.layers, strict=True
    ):
        for i, c in enumerate(kept):
            for j, b in enumerate(before):
                assert torch.equal(mine.conv.weight[i, j], dense.conv.weight[c, b])
            if config.conv_bias:
                assert mine.conv.bias[i] == dense.conv.bias[c]
            if dense.norm is not None:
                assert mine.norm.weight[i] == dense.norm.weight[c] and mine.norm.bias[i] == dense.norm.bias[c]
        before = kept
    mine, dense = small.feature_projection, encoder.feature_projection
    assert (mine.layer_norm is not None, mine.channel_scale is not None) == (
        config.projection_norm,
        config.channel_scale,
    )
    for i, c in enumerate(before):
        if mine.layer_norm is not None:
            assert mine.layer_norm.weight[i] == dense.layer_norm.weight[c]
            assert mine.layer_norm.bias[i] == dense.layer_norm.bias[c]
        if mine.channel_scale is not None:
            assert mine.channel_scale[i] == dense.channel_scale[c]
        if config.has_projection:
            assert torch.equal(mine.projection.weight[:, i], dense.projection.weight[:, c])
    assert not config.has_projection or torch.equal(mine.projection.bias, dense.projection.bias)


def test_type_and_mode_are_kept_and_slots_are_empty():
    encoder = random_encoder(CONFIG, seed=0).double().train()
    encoder.layers[0].attention.z_mha = torch.ones(1)
    small = compact(encoder, encoder.spec)
    assert small.training and small.mask_embedding.dtype == torch.float64
    assert small.layers[0].attention.z_mha is None
    assert not compact(encoder.eval(), encoder.spec).training


def test_the_position_bias_outlives_the_attention_of_layer_0():
    dense = CompactSpec.dense(tiny_large())
    gone = LayerSpec(attention=False, heads=(), feed_forward=True, ffn=dense.layers[0].ffn)
    encoder = random_encoder(tiny_large(), seed=0)
    small = compact(encoder, CompactSpec(layers=(gone, *dense.layers[1:])))
    assert torch.equal(small.relative_position.embedding.weight, encoder.relative_position.embedding.weight)
    wavs = torch.randn(1, 2000)
    with torch.no_grad():
        with_bias = small(wavs).hidden_states[-1]
        small.relative_position = None
        assert (small(wavs).hidden_states[-1] - with_bias).abs().max() > 0.1


def test_the_position_bias_goes_with_the_last_head():
    layer = LayerSpec(attention=True, heads=(), feed_forward=False, ffn=())
    small = compact(random_encoder(CONFIG, seed=0), CompactSpec(layers=(layer,) * 3))
    assert not [name for name, _ in small.named_parameters() if "relative_position" in name or "gate" in name]


def test_removed_units_cannot_be_kept():
    encoder = random_encoder(CONFIG, seed=0)
    dense = encoder.spec.layers[0]
    fewer = LayerSpec(attention=True, heads=dense.heads[1:], feed_forward=True, ffn=dense.ffn[2:])
    gone = LayerSpec(attention=False, heads=(), feed_forward=True, ffn=dense.ffn)
    for removed, message in ((fewer, "the spec keeps .*that the encoder does not have"), (gone, "layer 1 of the spec")):
        small = compact(encoder, CompactSpec(layers=(dense, removed, dense)))
        with pytest.raises(UserError, match=message):
            compact(small, encoder.spec)
