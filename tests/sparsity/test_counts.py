"""Counts compared with the model itself, with PyTorch's own counter, and with published figures."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from s3prl_pruned.models import families
from s3prl_pruned.models.components import PositionalConvolution
from s3prl_pruned.models.dummies import random_spec, tiny_base, tiny_large, tiny_peculiar, tiny_whispers
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec, LayerSpec
from s3prl_pruned.sparsity.counts import (
    EncoderCounts,
    macs,
    parameters,
    prunable_weights,
    realised_sparsity,
    weights,
)

NOTHING = LayerSpec(attention=False, heads=(), feed_forward=False, ffn=())
CONFIGS = [
    tiny_base(),
    tiny_large(conv_bias=True, pos_conv_kernel=5),
    tiny_base(embed_dim=12, num_heads=2),
    tiny_base(gated_position=False),
    tiny_large(gated_position=False, relative_position=False),
    *tiny_peculiar().values(),
    *tiny_whispers().values(),
]

configs, seeds = st.sampled_from(CONFIGS), st.integers(0, 100_000)


def part_of(name):
    """The part of `parameters` that a parameter of the encoder belongs to."""
    for prefix, part in (
        ("feature_extractor.", "cnn"),
        ("feature_projection.", "projection"),
        ("mask_embedding", "mask_embedding"),
        ("positional_convolution.", "positional_convolution"),
        ("relative_position.", "relative_position"),
        ("state_heads.", "state_heads"),
    ):
        if name.startswith(prefix):
            return part
    return "layer_norms" if "layer_norm" in name else "attention" if ".attention." in name else "feed_forward"


def numel_by_part(encoder):
    counted = {}
    for name, parameter in encoder.named_parameters():
        counted[part_of(name)] = counted.get(part_of(name), 0) + parameter.numel()
    return counted


@settings(max_examples=40, deadline=None)
@given(config=configs, seed=seeds)
def test_parameters_by_part_are_those_of_the_model(config, seed):
    spec = random_spec(config, seed=seed, channels=seed % 2 == 1, positions=seed % 3 > 0)
    counts = parameters(config, spec)
    with torch.device("meta"):
        encoder = SpeechEncoder(config, spec)
    assert {part: n for part, n in counts.items() if n} == {part: n for part, n in numel_by_part(encoder).items() if n}
    assert sum(counts.values()) == encoder.num_parameters()


@pytest.mark.parametrize("config", CONFIGS)
def test_a_sublayer_with_only_an_output_bias_counts_only_that(config):
    bias = LayerSpec(attention=True, heads=(), feed_forward=True, ffn=())
    spec = CompactSpec(layers=(bias, NOTHING, bias))
    counts = parameters(config, spec)
    assert counts["attention"] == counts["feed_forward"] == 2 * config.embed_dim
    assert counts["relative_position"] == 0
    with torch.device("meta"):
        assert sum(counts.values()) == SpeechEncoder(config, spec).num_parameters()


@pytest.mark.parametrize(
    ("name", "size", "weights"),
    [
        ("wavlm_base", 94_381_936, 12 * (4 * 768**2 + 2 * 768 * 3072)),
        ("wavlm_large", 315_453_120, 24 * (4 * 1024**2 + 2 * 1024 * 4096)),
        ("wavlm_embedded", None, 6 * (4 * 256**2 + 2 * 256 * 1024)),
    ],
)
def test_dense_public_models_have_their_known_sizes(name, size, weights):
    config = getattr(families, name)()
    dense = CompactSpec.dense(config)
    with torch.device("meta"):
        encoder = SpeechEncoder(config)
    assert sum(parameters(config, dense).values()) == encoder.num_parameters() == (size or encoder.num_parameters())
    assert numel_by_part(encoder) == parameters(config, dense)
    assert prunable_weights(config, dense) == weights
    assert realised_sparsity(config, dense) == 0


def test_the_papers_own_count():
    base = families.wavlm_base()
    assert prunable_weights(base, CompactSpec.dense(base)) == 84_934_656


@settings(max_examples=25, deadline=None)
@given(config=configs, seed=seeds)
def test_weights_of_a_pruned_cnn_are_added_to_those_of_the_six_matrices(config, seed):
    spec = random_spec(config, seed=seed, channels=True)
    counted = []
    for kept in (spec, CompactSpec(layers=CompactSpec.dense(config).layers)):
        with torch.device("meta"):
            modules = dict(SpeechEncoder(config, kept).named_modules())
        cnn = ("feature_extractor", "feature_projection")
        parts = [
            m for n, m in modules.items() if n.startswith(cnn) and isinstance(m, (torch.nn.Conv1d, torch.nn.Linear))
        ]
        layers = CompactSpec(layers=kept.layers)  # the same layers, the CNN not counted
        counted.append(prunable_weights(config, layers) + sum(m.weight.numel() for m in parts))
    assert prunable_weights(config, spec) == counted[0]
    assert realised_sparsity(config, spec) == pytest.approx(1 - counted[0] / counted[1])


def test_base_with_its_cnn_has_more_prunable_weights():
    """84,934,656 of the paper, convolutions 10 x 512 + 4 x 3 x 512^2 + 2 x 2 x 512^2, projection 512 x 768."""
    base = families.wavlm_base()
    whole = 84_934_656 + 5_120 + 16 * 512**2 + 512 * 768
    assert weights(base, EncoderCounts.dense(base, with_cnn=True)) == whole
    assert weights(base, EncoderCounts.dense(base, with_cnn=False)) == 84_934_656
    half = CompactSpec(layers=CompactSpec.dense(base).layers, channels=(tuple(range(256)),) * 7)
    assert realised_sparsity(base, half) == pytest.approx((2_560 + 12 * 512**2 + 256 * 768) / whole)


@settings(max_examples=25, deadline=None)
@given(config=st.sampled_from([config for config in CONFIGS if config.has_position_groups]), seed=seeds)
def test_weights_of_a_pruned_positional_convolution_count_beside_them(config, seed):
    spec = random_spec(config, seed=seed, positions=True)
    counted = []
    for kept in (spec, CompactSpec.dense(config)):
        conv = PositionalConvolution(config, kept.position_groups).conv
        counted.append(prunable_weights(config, replace(kept, position_groups=None)))
        counted[-1] += 0 if conv is None else conv.weight.numel()
    assert prunable_weights(config, spec) == counted[0]
    assert realised_sparsity(config, spec) == pytest.approx(1 - counted[0] / counted[1])


def test_base_with_its_positional_convolution_has_another_whole():
    """84,934,656 of the paper, and 768 x 48 x 128 of 16 groups."""
    base = families.wavlm_base()
    half = replace(CompactSpec.dense(base), position_groups=tuple(range(8)))
    assert realised_sparsity(base, half) == pytest.approx(8 * 48 * 48 * 128 / (84_934_656 + 768 * 48 * 128))
    before, after = (parameters(base, spec)["positional_convolution"] for spec in (CompactSpec.dense(base), half))
    assert before - after == 8 * 48 * 48 * 128 + 8 * 48  # the biases too; 128 magnitudes stay


@settings(max_examples=25, deadline=None)
@given(config=configs, seed=seeds)
def test_weights_are_the_elements_of_the_six_matrices(config, seed):
    spec = random_spec(config, seed=seed)
    with torch.device("meta"):
        encoder = SpeechEncoder(config, spec)
    matrices = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    kept = sum(
        p.numel() for n, p in encoder.named_parameters() if n.split(".")[-2:] in [[m, "weight"] for m in matrices]
    )
    assert prunable_weights(config, spec) == kept
    whole = config.num_layers * (4 * config.embed_dim**2 + 2 * config.embed_dim * config.ffn_dim)
    assert realised_sparsity(config, spec) == pytest.approx(1 - kept / whole)


def test_sparsity_is_one_if_nothing_is_kept():
    assert realised_sparsity(tiny_base(), CompactSpec(layers=(NOTHING,) * 3)) == 1


PARTS = {
    "cnn": "feature_extractor",
    "projection": "feature_projection",
    "positional_convolution": "positional_convolution",
}


def counted_by_torch(encoder, num_samples):
    counter = FlopCounterMode(display=False, depth=3)
    # Of the CPU's attention kernels, it only counts the one made of matrix products.
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        output = encoder(torch.randn(1, num_samples))
    halves = {name: sum(ops.values()) / 2 for name, ops in counter.get_flop_counts().items()}
    spectrum = halves.get("SpeechEncoder.feature_extractor.log_mel", 0)  # not part of the network
    for name in ("SpeechEncoder.feature_extractor", "Global"):
        halves[name] = halves.get(name, 0) - spectrum
    parts = {part: halves.get(f"SpeechEncoder.{module}", 0) for part, module in PARTS.items()}
    for part in ("attention", "feed_forward"):
        parts[part] = sum(halves.get(f"SpeechEncoder.layers.{i}.{part}", 0) for i in range(encoder.config.num_layers))
    assert sum(parts.values()) == halves["Global"], "a module was missed"
    if encoder.state_heads is not None:
        with FlopCounterMode(display=False) as of_heads:
            encoder.states(output)
        parts["state_heads"] = of_heads.get_total_flops() / 2
    return parts


@settings(max_examples=25, deadline=None)
@given(config=configs, seed=seeds, num_samples=st.integers(100, 3000))
def test_macs_equal_pytorchs_count(config, seed, num_samples):
    spec = random_spec(config, seed=seed, channels=seed % 2 == 1, positions=seed % 3 > 0)
    encoder = SpeechEncoder(config, spec).eval()
    num_samples = max(num_samples, config.frame_samples)
    assert counted_by_torch(encoder, num_samples) == macs(config, spec, num_samples)


def test_dense_macs_equal_pytorchs_count():
    for config in CONFIGS:
        spec = CompactSpec.dense(config)
        assert counted_by_torch(SpeechEncoder(config).eval(), 2000) == macs(config, spec, 2000)


@pytest.mark.slow
def test_base_has_the_macs_of_another_counter():
    """35.84 G at 5 s, of which 12.27 G in the CNN, counted by another program (without the gates' 0.02 G)."""
    base = families.wavlm_base()
    parts = macs(base, CompactSpec.dense(base), 80_000)
    assert counted_by_torch(SpeechEncoder(base).eval(), 80_000) == parts
    assert sum(parts.values()) / 1e9 == pytest.approx(35.84 + 0.018, abs=0.01)
    assert parts["cnn"] / 1e9 == pytest.approx(12.27, abs=0.01)


@pytest.mark.parametrize("config", [tiny_base(), families.wavlm_base()], ids=["tiny", "base"])
def test_frames_are_those_that_the_convolutions_compute(config):
    def frames(num_samples):
        for _, kernel, stride in config.conv_layers:
            x = torch.empty(1, 1, num_samples, device="meta")
            num_samples = torch.nn.functional.conv1d(x, torch.empty(1, 1, kernel, device="meta"), stride=stride).shape[
                -1
            ]
        return num_samples

    first = next(n for n in range(1, 1000) if config.num_frames(n))
    for num_samples in (first, first + 1, first + 79, 1234, 4000, 16_000):
        if num_samples >= first:
            assert config.num_frames(num_samples) == frames(num_samples)
    assert config.num_frames(first - 1) == config.num_frames(0) == 0
    if config == families.wavlm_base():
        assert first == 400 and config.num_frames(16_000) == 49
