"""A structure is plain data, survives JSON, and is refused where it does not fit."""

import json
from dataclasses import replace

import pytest

from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.models.dummies import random_spec, tiny_base
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec, HeadSpec, LayerSpec

CONFIG = tiny_base(num_layers=1)
DENSE = CompactSpec.dense(CONFIG).layers[0]
HEAD = DENSE.heads[0]


def only(**changes):
    return CompactSpec(layers=(replace(DENSE, **changes),))


def channels(*kept):
    return CompactSpec(layers=(DENSE,), channels=kept)


def groups(*kept):
    return CompactSpec(layers=(DENSE,), position_groups=kept)


@pytest.mark.parametrize("seed", range(5))
def test_a_structure_survives_json(seed):
    spec = random_spec(tiny_base(), seed=seed, channels=seed > 2, positions=seed % 2 == 1)
    assert ("position_groups" in spec.to_dict()) == ("position_groups" in to_dict(spec)) == (seed % 2 == 1)
    for plain in (spec.to_dict(), to_dict(spec)):
        back = from_dict(CompactSpec, json.loads(json.dumps(plain)), "config.json")
        assert back == spec
        back.check(tiny_base())


def test_a_configuration_survives_json():
    config = tiny_base(conv_bias=True, dropout=0.1)
    assert from_dict(EncoderConfig, json.loads(json.dumps(to_dict(config))), "config.json") == config


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (only(ffn=(3, 2)), r"layer 0 ffn of the spec must be ascending indices below 20, but is \[3, 2\]"),
        (only(ffn=(2, 2)), "layer 0 ffn"),
        (only(ffn=(5, 20)), "layer 0 ffn.*below 20"),
        (only(ffn=(-1, 3)), "layer 0 ffn"),
        (only(heads=(HEAD, replace(HEAD, index=4))), "layer 0 heads.*below 4"),
        (only(heads=(replace(HEAD, index=2), HEAD)), "layer 0 heads"),
        (only(heads=(replace(HEAD, qk=(6,)),)), "layer 0 head 0 qk.*below 6"),
        (only(heads=(replace(HEAD, vo=(1, 0)),)), "layer 0 head 0 vo"),
        (only(attention=False), "layer 0 of the spec keeps dimensions of a sublayer that it removes"),
        (only(feed_forward=False), "layer 0 of the spec keeps dimensions of a sublayer that it removes"),
        (CompactSpec(layers=(DENSE, DENSE)), "the spec has 2 layers, but the encoder has 1"),
        (channels((0, 1)), "the spec has 1 CNN layers, but the encoder has 5"),
        (channels((0, 8), *[(0,)] * 4), "CNN layer 0 channels of the spec must be ascending indices below 8"),
        (channels((1, 0), *[(0,)] * 4), "CNN layer 0 channels of the spec must be ascending"),
        (groups(0, 4), "groups of the positional convolution of the spec must be ascending indices below 4"),
        (groups(1, 0), "groups of the positional convolution of the spec must be ascending"),
        (channels(*[(0,)] * 4, ()), "CNN layer 4 of the spec keeps no channel, and at least one must stay"),
    ],
)
def test_a_structure_that_does_not_fit_is_refused(spec, message):
    with pytest.raises(UserError, match=message):
        SpeechEncoder(CONFIG, spec)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 25}, "`embed_dim` must be a multiple of `num_heads`, but they are 25 and 4"),
        ({"pos_conv_groups": 5}, "`embed_dim` must be a multiple of `pos_conv_groups`, but they are 24 and 5"),
        (
            {"extractor_mode": "batch_norm"},
            "`extractor_mode` must be group_norm, layer_norm or none, but is 'batch_norm'",
        ),
        ({"num_heads": 0}, "`num_heads` must be at least 1, but is 0"),
        ({"num_layers": -1}, "`num_layers` must be at least 1, but is -1"),
        ({"conv_layers": ()}, "`conv_layers` must be"),
        ({"conv_layers": ((8, 10, 0),)}, "`conv_layers` must be"),
        ({"num_buckets": 2}, "`num_buckets` must be at least 4"),
        ({"num_buckets": 32, "max_distance": 8}, "less than 4 x `max_distance`, but they are 32 and 8"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        SpeechEncoder(tiny_base(**changes))


def test_the_last_channels_stay_where_nothing_could_read_fewer():
    """As wide as the residual stream, there is no projection."""
    config = tiny_base(num_layers=1, embed_dim=12)
    assert CompactSpec.dense(config).conv_mask_sizes(config) == (8, 10, 10, 12, 0)
    assert CompactSpec.dense(CONFIG).conv_mask_sizes(CONFIG) == (8, 10, 10, 12, 12)
    layers = CompactSpec.dense(config).layers
    with pytest.raises(
        UserError, match="keeps 1 channels of the last CNN layer, but without a projection behind it all 12"
    ):
        SpeechEncoder(config, CompactSpec(layers=layers, channels=((0,),) * 5))
    SpeechEncoder(config, CompactSpec(layers=layers, channels=(*((0,),) * 4, tuple(range(12)))))


def test_masks_of_a_layer_are_counted_per_kind():
    layer = LayerSpec(
        attention=True,
        heads=(HeadSpec(index=1, qk=(), vo=(0, 4)), HeadSpec(index=3, qk=(1, 2, 3), vo=(5,))),
        feed_forward=False,
        ffn=(),
    )
    assert layer.mask_sizes == {"mha": 1, "qk": 3, "vo": 3, "head": 2, "ffn": 0, "int": 0}
