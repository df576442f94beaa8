"""The published structures: sizes and multiply-accumulates as their authors print them, counted by hand here."""

from dataclasses import replace

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.families import hubert_base, wavlm_base, wavlm_large
from s3prl_pruned.models.peers import PEERS, peer_structure, shape_of_published, whole_heads
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.models.state_rule import StateRule
from s3prl_pruned.sparsity.counts import macs, parameters

BASE_CNN = 1 * 512 * 10 + 2 * 512 + 4 * (512 * 512 * 3) + 2 * (512 * 512 * 2)
"""Of HuBERT Base: convolutions without biases, and one GroupNorm."""


def counted(name):
    peer = peer_structure(name)
    return sum(parameters(peer.config, peer.spec).values())


def positional(dim):
    """Weight-normalised, 16 groups, kernel 128."""
    return dim * (dim // 16) * 128 + 128 + dim


def layer(dim, heads_dim, ffn):
    """Attention, feed-forward and two LayerNorms, with biases."""
    attention = 3 * (dim * heads_dim + heads_dim) + heads_dim * dim + dim
    return attention + dim * ffn + ffn + ffn * dim + dim + 4 * dim


def giga(config, spec, seconds):
    return sum(macs(config, spec, round(16_000 * seconds)).values()) / 1e9


@pytest.mark.parametrize("name", PEERS)
def test_a_structure_fits_its_shape_and_the_encoder_has_as_many_parameters_as_are_counted(name):
    peer = peer_structure(name)
    peer.config.validate()
    peer.spec.check(peer.config)
    with torch.device("meta"):
        assert SpeechEncoder(peer.config, peer.spec).num_parameters() == counted(name)
    assert peer.title and peer.source


def test_diarizen_base_has_the_published_number_of_parameters():
    """18,881,683 with a scale for each of the 137 channels and, in each attention that is left, one of all 12 heads."""
    heads = [2, 3, 3, 5, 2, 1, 4, 4, 0, 0, 2, 1]
    unused_gate_scales = sum(12 - kept for kept in heads if kept)
    mask_embedding = 768
    assert counted("diarizen_base_s80") == 18_881_683 - unused_gate_scales + mask_embedding

    peer = peer_structure("diarizen_base_s80")
    assert peer.config == replace(wavlm_base(), channel_scale=True, states=StateRule(final_norm=False))
    assert [len(layer.heads) for layer in peer.spec.layers] == heads
    assert [layer.attention for layer in peer.spec.layers] == [True] * 8 + [False] * 2 + [True] * 2
    assert [head.index for head in peer.spec.layers[3].heads] == [0, 1, 4, 8, 11]
    assert {len(head.qk) for layer in peer.spec.layers for head in layer.heads} == {64}
    assert [len(kept) for kept in peer.spec.channels] == [90, 161, 173, 181, 351, 155, 137]
    assert sum(len(layer.ffn) for layer in peer.spec.layers) == 666 + 660 + 649 + 1080 + 237 + 299 + 437 + 573 + 678


def test_a_structure_that_is_off_by_one_has_not_that_number():
    config = replace(wavlm_base(), channel_scale=True)
    one, other = (
        whole_heads(config, channels=(90,) * 7, heads=((0,),) * 12, ffn=(width,) * 12) for width in (300, 301)
    )
    difference = sum(parameters(config, other).values()) - sum(parameters(config, one).values())
    assert difference == 12 * (2 * 768 + 1)


def test_distilhubert_has_two_layers_and_no_norm_before_its_projection():
    without_predictions = BASE_CNN + 512 * 768 + 768 + positional(768) + 2 * 768 + 2 * layer(768, 768, 3072)
    assert without_predictions == 23_491_200  # printed: 23.49 M
    assert counted("distilhubert") == without_predictions + 768  # a mask embedding
    predictions = 768 * 3 * 768 + 3 * 768 + 3 * (768 * 768 + 768)
    assert counted("distilhubert_predictions") == without_predictions + 768 + predictions
    assert peer_structure("distilhubert_predictions").config.num_states == 1 + 2 + 3


@pytest.mark.parametrize(
    "name, dim, projection",
    [
        ("lighthubert_small", 384, 512 * 384 + 384),
        ("lighthubert_base", 640, 512 * 640 + 640),
        ("student_hubert", 512, 0),
    ],
)
def test_lighthubert_is_a_narrow_hubert(name, dim, projection):
    layers = 12 * layer(dim, dim, 4 * dim)
    assert counted(name) == BASE_CNN + 2 * 512 + projection + positional(dim) + 2 * dim + layers + dim
    assert peer_structure(name).config.num_heads == dim // 64


def test_maskhubert_matches_its_configuration():
    cnn = 128 * 10 + 2 * 128 + 128 * 256 + 4 * (256 * 256 * 3) + 256 * 480 + 2 * (480 * 480 * 2)
    encoder = cnn + 2 * 480 + positional(480) + 2 * 480 + 12 * layer(480, 480, 640)
    maps = 12 * (480 * 768 + 768)
    assert encoder + maps == 26_635_360  # printed: 26.64 M
    assert counted("maskhubert") == encoder + maps + 480  # a mask embedding
    assert peer_structure("maskhubert").config.num_states == 12
    assert peer_structure("maskhubert").config.frame_samples == hubert_base().frame_samples
    assert peer_structure("maskhubert").config.num_frames(16_000) == hubert_base().num_frames(16_000)


def test_macs_are_those_that_are_printed():
    """DiariZen's README of 1 s; superbbenchmark.org's of its own audio, as a share of HuBERT Base's."""
    assert giga(*shape_of_published("wavlm_base"), 1) == pytest.approx(6.9, abs=0.05)
    assert giga(*shape_of_published("wavlm_large"), 1) == pytest.approx(17.8, abs=0.05)
    assert giga(*shape_of_published("diarizen_base_s80"), 1) == pytest.approx(1.1, abs=0.05)
    share = giga(*shape_of_published("lighthubert_small"), 5) / giga(*shape_of_published("hubert_base"), 5)
    assert share == pytest.approx(860.7 / 1669, abs=0.001)


def test_dense_public_shapes_are_found_by_name_too():
    assert shape_of_published("wavlm_large") == (wavlm_large(), CompactSpec.dense(wavlm_large()))
    with pytest.raises(UserError, match="must be one of .*distilhubert.*, but is 'dphubert'"):
        peer_structure("dphubert")
