"""Counts in multiples, ranks within groups, and which encoders can be pruned to multiples."""

import pytest
import torch

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.gates.attach import GateConfig, GateSet
from s3prl_pruned.gates.multiples import group_sizes, in_words, ranks, rounded_to
from s3prl_pruned.gates.self_pinching import SelfPinchingConfig, SelfPinchingGates, pinch, unit_scores
from s3prl_pruned.models.compact import surviving_spec
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base
from s3prl_pruned.models.families import wavlm_base
from s3prl_pruned.models.spec import CompactSpec

SHAPE = tiny_base(embed_dim=32, num_heads=2, ffn_dim=40, conv_layers=((8, 10, 5), (16, 3, 2), (12, 2, 2)))
DENSE = CompactSpec.dense(SHAPE)


def test_counts_are_rounded_to_the_nearest_multiple_and_halves_up():
    counts = [0.0, 3.9, 4.0, 4.1, 11.9, 12.0, 61.0]
    assert rounded_to(torch.tensor(counts), 8).tolist() == [0, 0, 8, 8, 8, 16, 64]
    whole = rounded_to(torch.arange(13), 4)
    assert whole.tolist() == [0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12] and whole.dtype == torch.int64


def test_ranks_are_within_groups_and_equal_scores_keep_their_order():
    scores = torch.tensor([0.5, 0.9, 0.5, -1.0, -1.0, 7.0, -1.0, 2.0])
    group = torch.tensor([0, 0, 0, 1, 1, 1, 1, 3])
    assert ranks(scores, group).tolist() == [1, 0, 2, 1, 2, 0, 3, 0]
    assert ranks(scores).tolist() == [3, 2, 4, 5, 6, 0, 7, 1]


def test_groups_are_heads_feed_forwards_and_layers_of_the_cnn():
    spec = random_spec(SHAPE, seed=3, channels=True)
    for kind in ("qk", "vo"):
        assert group_sizes(spec, None, kind) == [[len(getattr(h, kind)) for h in layer.heads] for layer in spec.layers]
    assert group_sizes(spec, None, "int") == [[len(layer.ffn)] for layer in spec.layers]
    assert group_sizes(DENSE, SHAPE, "conv") == [[8], [16], [12]]
    no_projection = tiny_base(embed_dim=12)
    assert group_sizes(CompactSpec.dense(no_projection), no_projection, "conv") == [[8], [10], [10], [12]]


def test_whole_heads_have_a_mask_each_and_their_dimensions_none():
    config = from_dict(GateConfig, {"dims_multiple": "head"}, "here")
    assert config.learned_kinds == ("mha", "head", "ffn", "int") and config.unit_multiple is None
    gates = GateSet(DENSE, config, SHAPE)
    assert {name for _, name in gates.table.sizes} == {"z_mha", "z_head", "z_ffn", "z_int"}
    assert GateConfig().learned_kinds == GateConfig(dims_multiple=8).learned_kinds == GateConfig().kinds


def test_the_text_for_screen_and_card():
    assert (in_words(None), in_words(16), in_words("head")) == ("", ", units in multiples of 16", ", whole heads")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"dims_multiple": 12}, "dims_multiple: must be one of 2, 4, 8, 16, 32, head, but is 12"),
        ({"dims_multiple": "heads"}, "dims_multiple: must be one of 2, 4, 8, 16, 32, head, but is 'heads'"),
        ({"dims_multiple": True}, "but is True"),
        ({"dims_multiple": 8, "kinds": ["mha", "head", "ffn"]}, "`kinds` is ['mha', 'head', 'ffn'], which prunes none"),
        ({"dims_multiple": "head", "kinds": ["ffn", "int"]}, "Add one of ['qk', 'vo', 'head']"),
    ],
)
def test_an_impossible_recipe_is_refused(data, message):
    with pytest.raises(UserError) as error:
        from_dict(GateConfig, data, "config_model.yaml")
    assert message in str(error.value)


@pytest.mark.parametrize("multiple", [2, 4, 8, 16, 32, "head", None])
@pytest.mark.parametrize("kinds", [GateConfig().kinds, (*GateConfig().kinds, "conv"), ("mha", "head", "ffn", "int")])
def test_a_dense_base_model_can_be_pruned_to_every_multiple(multiple, kinds):
    base = wavlm_base()
    GateConfig(dims_multiple=multiple, kinds=kinds).check_multiple(CompactSpec.dense(base), base)


@pytest.mark.parametrize(
    ("config", "shape", "spec", "message"),
    [
        (GateConfig(dims_multiple=32), SHAPE, DENSE, "this encoder has query/key dimensions in groups of 16, of"),
        (
            GateConfig(dims_multiple=16, kinds=("qk", "vo", "conv")),
            tiny_base(embed_dim=32, num_heads=2, ffn_dim=48),
            None,
            "has channels in groups of 8 to 12, of which no such multiple can stay",
        ),
        (GateConfig(dims_multiple=16, kinds=("qk", "vo")), SHAPE, DENSE, "layer 0 has 40 FFN dimensions in a group"),
        (GateConfig(dims_multiple=4, kinds=("int",)), tiny_base(), None, "layer 0 has 6 query/key dimensions"),
        (
            GateConfig(dims_multiple="head"),
            SHAPE,
            random_spec(SHAPE, seed=1),
            "query/key and",
        ),
        (SelfPinchingConfig(dims_multiple=32), tiny_base(), None, "layer 0 has 6 query/key dimensions in a group"),
    ],
)  # fmt: skip
def test_an_encoder_that_cannot_be_pruned_to_multiples_is_refused(config, shape, spec, message):
    with pytest.raises(UserError) as error:
        config.check_multiple(spec or CompactSpec.dense(shape), shape)
    assert message in str(error.value)


def test_heads_that_are_pruned_already_can_be_pruned_to_multiples():
    spec = random_spec(SHAPE, seed=1)
    assert any(len(head.vo) % 2 for layer in spec.layers for head in layer.heads)
    GateConfig(dims_multiple=2).check_multiple(spec, SHAPE)


@pytest.mark.parametrize("threshold", [0.1, 0.45, 0.6, 0.8, 1.2])
def test_a_pinched_ffn_keeps_the_nearest_multiple_of_its_largest_scores(threshold):
    norms = torch.rand(41, generator=torch.Generator().manual_seed(0)) ** 2 * 3
    scores, t = unit_scores(norms), torch.tensor(threshold, requires_grad=True)
    free = pinch(scores, t, 0.3, structured=True)
    z = pinch(scores, t, 0.3, structured=True, multiple=8)
    above = int(free.detach().sum())
    nearest = min((0, 8, 16, 24, 32, 40), key=lambda count: (abs(count - above), -count))
    assert int(z.detach().sum()) == nearest
    order = sorted(range(41), key=lambda i: -float(scores[i]))
    assert {i for i in range(41) if z[i] > 0.5} == set(order[:nearest])
    (by_free,), (by_multiple,) = (torch.autograd.grad(each.sum(), t, retain_graph=True) for each in (free, z))
    assert torch.equal(by_free, by_multiple) and float(by_free) != 0


def test_self_pinching_keeps_every_ffn_in_multiples_and_leaves_heads_as_they_are():
    encoder = random_encoder(SHAPE, seed=0)
    found = {}
    for multiple in (None, 8):
        gates = SelfPinchingGates(DENSE, SelfPinchingConfig(dims_multiple=multiple))
        with torch.no_grad():
            for number, threshold in enumerate(gates.parameters()):
                threshold.fill_(0.4 + 0.1 * number)
        found[multiple] = surviving_spec(DENSE, gates.draw(encoder, 0.3).hard_masks())
    free, held = ([len(layer.ffn) for layer in found[multiple].layers] for multiple in (None, 8))
    assert any(size % 8 for size in free) and [abs(a - b) <= 4 for a, b in zip(free, held)] == [True] * 3
    assert all(size % 8 == 0 for size in held) and any(held)
    assert [layer.heads for layer in found[8].layers] == [layer.heads for layer in found[None].layers]


def test_single_weights_cannot_be_kept_in_multiples():
    with pytest.raises(UserError, match="`dims_multiple` applies to FFN dimensions"):
        from_dict(SelfPinchingConfig, {"kinds": ["ffn_weights"], "dims_multiple": 8}, "here")
