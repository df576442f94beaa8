"""The masked encoder and the smaller one exported from it compute the same hidden states."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s3prl_pruned.config import UserError
from s3prl_pruned.export.masks import export_compact, fold
from s3prl_pruned.models.compact import compact, surviving_spec, whole
from s3prl_pruned.models.dummies import (
    random_conv_masks,
    random_encoder,
    random_masks,
    random_spec,
    tiny_base,
    tiny_families,
    tiny_large,
    tiny_peculiar,
    tiny_whispers,
)
from s3prl_pruned.models.masks import LAYER_KINDS, SlotTable
from s3prl_pruned.models.spec import CompactSpec, LayerSpec
from s3prl_pruned.sparsity.counts import parameters

FP32, FP64 = 2e-5, 1e-9
FULL, NO_FAHP = ("mha", "qk", "vo", "ffn", "int"), ("mha", "head", "ffn", "int")
CONFIGS = {"base": tiny_base(), "large": tiny_large()}
FAMILIES = tiny_families() | tiny_peculiar() | tiny_whispers()
WAVS = 0.3 * torch.randn(2, 1600, generator=torch.Generator().manual_seed(0))
BATCHES = [(WAVS[:1], None), (WAVS, torch.tensor([1600, 1111]))]


@pytest.fixture(scope="module")
def largest(relative_differences):
    """Largest relative difference of two encoders over all hidden states, alone and in a padded batch."""

    @torch.no_grad()
    def compare(ours, theirs):
        differences = []
        for wavs, lengths in BATCHES:
            states = [
                encoder(wavs.to(next(encoder.parameters()).dtype), lengths).hidden_states for encoder in (ours, theirs)
            ]
            assert len(states[0]) == ours.config.num_layers + 1
            differences += relative_differences(*states)
        return max(differences)

    return compare


def export_and_mask(encoder, masks):
    """The exported encoder, and the dense one with the masks in its slots."""
    spec = surviving_spec(encoder.spec, masks, shape=encoder.config)
    small = export_compact(encoder, masks, spec)
    encoder.set_masks(masks)
    return small, encoder


def check(encoder, masks, largest):
    exact_small, exact_masked = export_and_mask(copy.deepcopy(encoder).double(), masks)
    assert largest(exact_small, exact_masked) <= FP64
    small, masked = export_and_mask(encoder, masks)
    # LayerNorm over two channels amplifies rounding errors, also those of the masked encoder (at most 3 times in 300
    # draws).
    assert largest(small, masked) <= FP32 + 4 * largest(masked, exact_masked)
    return small


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 100_000),
    config=st.sampled_from(list(CONFIGS.values())),
    kinds=st.sampled_from([FULL, NO_FAHP, (*FULL, "head"), ("mha", "ffn"), ("qk",), ("vo", "int"), ("head",)]),
    pruned_before=st.booleans(),
)
def test_random_ragged_soft_masks(largest, seed, config, kinds, pruned_before):
    spec = random_spec(config, seed=seed) if pruned_before else None
    encoder = random_encoder(config, seed=seed, spec=spec)
    check(encoder, random_masks(encoder.spec, seed=seed, kinds=kinds), largest)


@settings(max_examples=90, deadline=None)
@given(
    seed=st.integers(0, 100_000),
    name=st.sampled_from(sorted(FAMILIES)),
    kinds=st.sampled_from([FULL, NO_FAHP, ()]),
    pruned_before=st.booleans(),
)
def test_random_ragged_channels_of_every_family(largest, seed, name, kinds, pruned_before):
    config = FAMILIES[name]
    encoder = random_encoder(
        config, seed=seed, spec=random_spec(config, seed=seed, channels=True) if pruned_before else None
    )
    masks = random_masks(encoder.spec, seed=seed, kinds=kinds)
    conv_masks = random_conv_masks(encoder.spec, config, seed=seed)
    small = check(encoder, {**masks, **conv_masks}, largest)
    kept = [int((z != 0).sum()) for z in conv_masks.values()]
    kept += [config.embed_dim] * (not config.has_projection)  # the last layer has the width of the residual stream
    assert [layer.conv.out_channels for layer in small.feature_extractor.layers] == kept


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 100_000),
    name=st.sampled_from(sorted(name for name, config in FAMILIES.items() if config.has_position_groups)),
    kinds=st.sampled_from([("pos",), (*FULL, "pos")]),
    pruned_before=st.booleans(),
)
def test_random_groups_of_every_single_positional_convolution(largest, seed, name, kinds, pruned_before):
    config = FAMILIES[name]
    spec = random_spec(config, seed=seed + 1, channels=seed % 2 == 1, positions=True) if pruned_before else None
    encoder = random_encoder(config, seed=seed, spec=spec)
    masks = random_masks(encoder.spec, seed=seed, kinds=kinds, shape=config)
    small = check(encoder, masks, largest)
    kept = int((masks.get((0, "z_pos"), torch.zeros(1)) != 0).sum())
    conv = small.positional_convolution.conv
    assert kept == len(small.spec.position_groups) == (0 if conv is None else conv.groups)
    assert small.num_parameters() == sum(parameters(config, small.spec).values())


@pytest.mark.parametrize("gone", [(), (0,), (3,), (1, 2), (0, 1, 2, 3)], ids=str)
def test_removed_groups_of_the_positional_convolution(largest, gone):
    """The first, the last, neighbours, all and none; a dense model filled up with zeros computes the same."""
    encoder = random_encoder(tiny_base(), seed=1)
    plain, z = copy.deepcopy(encoder), torch.tensor([0.3, 0.5, 0.7, 0.9])
    z[list(gone)] = 0
    small = check(encoder, {(0, "z_pos"): z}, largest)
    assert largest(plain, encoder) > 100 * FP32, "the masks do nothing"
    assert largest(whole(small.double()), small) <= FP64
    assert set(range(4)) - set(gone) == set(small.spec.position_groups)


def test_channels_that_are_the_residual_stream_are_kept(largest):
    config = tiny_base(embed_dim=12, num_heads=2)
    encoder = random_encoder(config, seed=0)
    small = check(
        encoder, {**random_masks(encoder.spec, seed=0), **random_conv_masks(encoder.spec, config, seed=0)}, largest
    )
    assert small.feature_projection.projection is None and len(small.spec.channels[-1]) == 12


def test_masks_that_remove_all_channels_of_a_layer_are_refused():
    encoder = random_encoder(tiny_base(), seed=0)
    conv_masks = random_conv_masks(encoder.spec, encoder.config, seed=0)
    conv_masks[2, "z_conv"].zero_()
    with pytest.raises(UserError, match="CNN layer 2 of the spec keeps no channel"):
        export_and_mask(encoder, conv_masks)


def zeroed(name):
    """Zero a slot of one layer, or of all layers (None)."""

    def apply(masks, layer):
        for i in range(3) if layer is None else [layer]:
            for slot in name.split():
                masks[i, slot].zero_()

    return apply


def one_head_without(name):
    def apply(masks, layer):
        for i in range(3) if layer is None else [layer]:
            masks[i, name][6:12] = 0  # head 1 of 4, 6 dimensions each

    return apply


CASES = {
    "a whole layer": (zeroed("z_mha z_ffn"), 1),
    "every layer": (zeroed("z_mha z_ffn"), None),
    "attention of layer 0": (zeroed("z_mha"), 0),
    "attention of the last layer": (zeroed("z_mha"), 2),
    "all attention": (zeroed("z_mha"), None),
    "a feed-forward": (zeroed("z_ffn"), 1),
    "all dimensions of layer 0's values: its bias alone": (zeroed("z_vo"), 0),
    "all dimensions of all values: biases alone, no position bias": (zeroed("z_vo"), None),
    "all intermediate dimensions: its bias alone": (zeroed("z_int"), 1),
    "everything but biases": (zeroed("z_vo z_qk z_int"), None),
    "all query/key dimensions of a layer: position bias alone": (zeroed("z_qk"), 1),
    "all query/key dimensions": (zeroed("z_qk"), None),
    "one head's query/key": (one_head_without("z_qk"), 0),
    "one head's values": (one_head_without("z_vo"), None),
}


def soft_masks(encoder, case):
    """Only the case removes units; all other masks are between 0.3 and 1."""
    generator = torch.Generator().manual_seed(5)
    sizes = SlotTable.of(encoder.spec, FULL).sizes
    masks = {slot: 1 - 0.7 * torch.rand(n, generator=generator) for slot, n in sizes.items()}
    change, layer = CASES[case]
    change(masks, layer)
    return masks


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_structures_that_are_often_handled_wrongly(config, case, largest):
    encoder = random_encoder(config, seed=1)
    masks = soft_masks(encoder, case)
    plain = copy.deepcopy(encoder)
    small = check(encoder, masks, largest)
    assert largest(plain, encoder) > 100 * FP32, "the masks do nothing"
    assert small.num_parameters() < encoder.num_parameters()


def test_structures_of_the_cases():
    encoder = random_encoder(tiny_base(), seed=1)
    left = {case: surviving_spec(encoder.spec, soft_masks(encoder, case)).layers for case in CASES}
    dense, dims = encoder.spec.layers[0], tuple(range(6))
    nothing = LayerSpec(attention=False, heads=(), feed_forward=False, ffn=())
    assert left["a whole layer"] == (dense, nothing, dense)
    assert left["every layer"] == (nothing,) * 3
    bias = left["everything but biases"][1]
    assert (bias.attention, bias.heads, bias.feed_forward, bias.ffn) == (True, (), True, ())
    by_position = left["all query/key dimensions of a layer: position bias alone"][1]
    assert [(head.index, head.qk, head.vo) for head in by_position.heads] == [(h, (), dims) for h in range(4)]
    assert [head.index for head in left["one head's values"][2].heads] == [0, 2, 3]
    assert [head.qk for head in left["one head's query/key"][0].heads] == [dims, (), dims, dims]


def test_masks_of_only_ones_export_the_same_weights():
    encoder = random_encoder(tiny_base(), seed=2)
    masks = {slot: torch.ones(n) for slot, n in SlotTable.of(encoder.spec, LAYER_KINDS).sizes.items()}
    for empty_or_ones in (masks, {}):
        assert surviving_spec(encoder.spec, empty_or_ones) == encoder.spec
        small = export_compact(encoder, empty_or_ones, encoder.spec)
        assert all(torch.equal(p, small.state_dict()[name]) for name, p in encoder.state_dict().items())


def test_folding_does_not_change_the_original():
    encoder = random_encoder(tiny_base(), seed=3)
    masks = random_masks(encoder.spec, seed=3)
    before = copy.deepcopy(encoder.state_dict())
    graph = {(i, "z_ffn"): torch.ones(1, requires_grad=True) * 0.5 for i in range(3)}
    encoder.set_masks(graph)
    folded = fold(encoder, masks)
    assert encoder.layers[0].feed_forward.z_ffn is graph[0, "z_ffn"]
    assert folded.layers[0].feed_forward.z_ffn is None
    assert all(torch.equal(p, before[name]) for name, p in encoder.state_dict().items())


def test_folding_in_place_gives_the_same_without_a_copy():
    encoder = random_encoder(tiny_base(), seed=3)
    masks = random_masks(encoder.spec, seed=3)
    copied = fold(encoder, masks)
    encoder.set_masks(masks)
    assert fold(encoder, masks, in_place=True) is encoder
    assert encoder.layers[0].feed_forward.z_ffn is None
    assert all(torch.equal(p, copied.state_dict()[name]) for name, p in encoder.state_dict().items())


class TestTheComparisonNotices:
    """Common mistakes, made on purpose: the difference of each is far above the tolerance."""

    @pytest.fixture(params=CONFIGS.values(), ids=CONFIGS)
    def encoder(self, request):
        return random_encoder(request.param, seed=4)

    def test_the_output_bias_of_a_removed_attention(self, encoder, largest):
        masks = soft_masks(encoder, "attention of layer 0")
        spec = surviving_spec(encoder.spec, masks)
        del masks[0, "z_mha"]
        kept = LayerSpec(attention=True, heads=(), feed_forward=True, ffn=spec.layers[0].ffn)
        wrong = export_compact(encoder, masks, CompactSpec(layers=(kept, *spec.layers[1:])))
        masks[0, "z_mha"] = torch.zeros(1)
        encoder.set_masks(masks)
        assert largest(wrong, encoder) > 1000 * FP32

    def test_the_output_bias_of_a_removed_feed_forward(self, encoder, largest):
        masks = soft_masks(encoder, "a feed-forward")
        del masks[1, "z_ffn"]
        masks[1, "z_int"].zero_()
        wrong = export_compact(encoder, masks, surviving_spec(encoder.spec, masks))
        masks[1, "z_ffn"] = torch.zeros(1)
        encoder.set_masks(masks)
        assert largest(wrong, encoder) > 1000 * FP32

    def test_the_position_bias_lost_with_layer_0(self, encoder, largest):
        small, masked = export_and_mask(encoder, soft_masks(encoder, "attention of layer 0"))
        small.relative_position = None
        assert largest(small, masked) > 1000 * FP32

    def test_heads_removed_that_attend_by_position_alone(self, encoder, largest):
        masks = soft_masks(encoder, "one head's query/key")
        spec = surviving_spec(encoder.spec, masks)
        first = spec.layers[0]
        fewer = LayerSpec(attention=True, heads=tuple(h for h in first.heads if h.qk), feed_forward=True, ffn=first.ffn)
        wrong = compact(fold(encoder, masks), CompactSpec(layers=(fewer, *spec.layers[1:])))
        encoder.set_masks(masks)
        assert largest(wrong, encoder) > 1000 * FP32

    def test_a_softmax_scale_of_the_pruned_head_dim(self, encoder, largest):
        masks = soft_masks(encoder, "a feed-forward")
        for (_, name), z in masks.items():
            if name == "z_qk":
                z.view(4, 6)[:, :3] = 0
        small, masked = export_and_mask(encoder, masks)
        for layer in small.layers:
            layer.attention.scale = 3**-0.5
        assert largest(small, masked) > 1000 * FP32

    def test_norms_that_still_cover_removed_channels(self, encoder, largest):
        """Common mistake: statistics over all channels in the masked model."""
        small, masked = export_and_mask(encoder, random_conv_masks(encoder.spec, encoder.config, seed=1))
        parts = [masked.feature_projection]
        if encoder.config.extractor_mode == "layer_norm":
            parts.append(masked.feature_extractor.layers[1])
        for part in parts:
            z = part.z_conv
            assert 0 < (z != 0).sum() < len(z)
            part.z_conv = z.clamp(min=1e-9)  # almost 0, but included in the statistics
            assert largest(small, masked) > 1000 * FP32
            part.z_conv = z
        assert largest(small, masked) <= FP32

    def test_a_soft_channel_that_is_folded_before_the_projections_norm(self, encoder, largest):
        """In this order, the norm would cancel the factor."""
        small, masked = export_and_mask(encoder, random_conv_masks(encoder.spec, encoder.config, seed=1))
        z = masked.feature_projection.z_conv
        masked.feature_projection.z_conv = (z != 0).float()
        masked.feature_extractor.register_forward_hook(lambda module, given, features: features * z)
        assert largest(small, masked) > 1000 * FP32

    def test_a_soft_group_that_is_folded_behind_gelu(self, encoder, largest):
        z = torch.tensor([0.0, 0.5, 0.7, 1.0])
        small, masked = export_and_mask(encoder, {(0, "z_pos"): z})
        masked.positional_convolution.z_pos = (z != 0).float()
        masked.positional_convolution.register_forward_hook(lambda module, given, y: y * z.repeat_interleave(6))
        assert largest(small, masked) > 1000 * FP32

    def test_magnitudes_of_taps_over_all_groups(self, encoder, largest):
        """What slicing the rows alone would leave: each tap scaled by the norm of the rows that stay."""
        small, masked = export_and_mask(encoder, {(0, "z_pos"): torch.tensor([0.0, 1.0, 1.0, 0.0])})
        magnitudes = masked.positional_convolution.conv.parametrizations["weight"].original0
        small.positional_convolution.conv.parametrizations["weight"].original0.data.copy_(magnitudes)
        assert largest(small, masked) > 1000 * FP32

    def test_every_parameter_of_the_smaller_model(self, encoder, largest):
        masks = soft_masks(encoder, "one head's values")
        sizes = enumerate(encoder.spec.conv_mask_sizes(encoder.config))
        conv_masks = {(i, "z_conv"): torch.linspace(0.3, 1, size) for i, size in sizes}
        for z in conv_masks.values():  # a norm over one channel alone would hide everything before it
            z[::3] = 0
        positions = {(0, "z_pos"): torch.tensor([0.4, 0.0, 1.0, 0.7])}
        small, masked = export_and_mask(encoder, {**masks, **conv_masks, **positions})
        invisible = [n for n, _ in small.named_parameters() if n == "mask_embedding" or n.endswith("k_proj.bias")]
        blind = []
        for name, parameter in small.named_parameters():
            kept = parameter.detach().clone()
            with torch.no_grad():
                parameter += 0.1 * torch.randn(kept.shape, generator=torch.Generator().manual_seed(0))
                if largest(small, masked) < 5 * FP32:
                    blind.append(name)
                parameter.copy_(kept)
        assert blind == invisible
