"""What the encoder guarantees for every structure: states, frames, gradients, slots."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import gelu

from s3prl_pruned.models.components import FeedForward, normalize_utterances
from s3prl_pruned.models.dummies import (
    random_conv_masks,
    random_encoder,
    random_masks,
    random_spec,
    tiny_base,
    tiny_families,
    tiny_large,
)
from s3prl_pruned.models.encoder import SpeechEncoder, count_frames
from s3prl_pruned.models.spec import CompactSpec, LayerSpec

NOTHING = LayerSpec(attention=False, heads=(), feed_forward=False, ffn=())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), large=st.booleans())
def test_every_structure_gives_all_states(seed, large):
    config = tiny_large() if large else tiny_base()
    encoder = random_encoder(config, seed=seed, spec=random_spec(config, seed=seed))
    with torch.no_grad():
        output = encoder(torch.randn(2, 1500), torch.tensor([1500, 700]))
    assert len(output.hidden_states) == config.num_layers + 1
    assert all(state.shape == (2, 18, config.embed_dim) for state in output.hidden_states)
    assert all(torch.isfinite(state).all() for state in output.hidden_states)


@pytest.mark.parametrize("config", [tiny_base(), tiny_large()], ids=["base", "large"])
def test_empty_layers_keep_their_state_and_their_norms(config):
    encoder = random_encoder(config, seed=0, spec=CompactSpec(layers=(NOTHING,) * 3))
    with torch.no_grad():
        states = encoder(torch.randn(1, 1500)).hidden_states
    for layer, before, after in zip(encoder.layers, states, states[1:]):
        if config.norm_first:
            expected = encoder.layer_norm(before) if after is states[-1] else before
        else:
            expected = layer.final_layer_norm(layer.attention_layer_norm(before))
        assert torch.equal(after, expected)


def test_the_shortest_utterance_is_one_frame():
    encoder = random_encoder(tiny_base(), seed=0)
    shortest = next(n for n in range(1, 1000) if encoder.config.num_frames(n) == 1)
    with torch.no_grad():
        states = encoder(torch.randn(1, shortest)).hidden_states
    assert all(state.shape[1] == 1 and torch.isfinite(state).all() for state in states)


def test_frames_are_counted_by_s3prls_chunks():
    wavs, frames = torch.zeros(1, 4000), 49
    for length in (1, 80, 81, 82, 162, 163, 3968, 3969, 3970, 4000):
        padded = (torch.arange(4000) >= length)[: 4000 - 4000 % frames].view(frames, -1).all(-1)  # its own reshaping
        assert int(count_frames(torch.tensor([length]), wavs, frames)) == int((~padded).sum())
    assert count_frames(None, torch.zeros(3, 4000), frames).tolist() == [49, 49, 49]


def test_padding_changes_nothing_where_no_norm_runs_over_time():
    config = tiny_large()
    encoder = random_encoder(config, seed=0).double()
    short = torch.randn(1, 3159, dtype=torch.float64)  # 39 frames by its own convolutions and by s3prl's chunks
    padded = torch.cat([torch.randn(1, 4000, dtype=torch.float64), torch.zeros(1, 4000, dtype=torch.float64)])
    padded[1, :3159] = short
    with torch.no_grad():
        alone = encoder(short).hidden_states
        together = encoder(padded, torch.tensor([4000, 3159]))
    assert together.frame_lengths.tolist() == [49, 39]
    for mine, state in zip(alone, together.hidden_states):
        assert (state[1, :39] - mine[0]).abs().max() < 1e-9


def test_lengths_that_say_that_nothing_is_padded_change_nothing():
    encoder = random_encoder(tiny_base(), seed=0)
    wavs = torch.randn(2, 2000)
    with torch.no_grad():
        without, told = encoder(wavs), encoder(wavs, torch.tensor([2000, 2000]))
    assert torch.equal(without.frame_lengths, told.frame_lengths)
    for a, b in zip(without.hidden_states, told.hidden_states):
        assert (a - b).abs().max() <= 2e-5 * max(1, float(b.abs().max()))


def cnn_gradient(grad_mult, *, training=True):
    encoder = random_encoder(tiny_base(feature_grad_mult=grad_mult), seed=0).train(training)
    encoder(torch.ones(1, 1500).cumsum(1).sin()).hidden_states[-1].square().sum().backward()
    assert encoder.feature_projection.projection.weight.grad is not None
    return encoder.feature_extractor.layers[0].conv.weight.grad


def test_the_cnns_gradient_is_multiplied_or_absent():
    full = cnn_gradient(1.0)
    assert full.abs().max() > 0
    assert (cnn_gradient(0.1) - 0.1 * full).abs().max() < 1e-5 * full.abs().max()
    assert cnn_gradient(0.0) is None


def test_dropout_acts_only_in_training(relative_differences):
    encoder = random_encoder(tiny_base(dropout=0.3, attention_dropout=0.3, activation_dropout=0.3), seed=0)
    plain = random_encoder(tiny_base(), seed=0)
    wavs = torch.randn(1, 1500)
    with torch.no_grad():
        expected = plain(wavs).hidden_states[-1]
        assert max(relative_differences([encoder(wavs).hidden_states[-1]], [expected])) <= 2e-5
        assert (encoder.train()(wavs).hidden_states[-1] - expected).abs().max() > 0.1


@torch.no_grad()
def test_feed_forward_masks_act_after_gelu_and_on_the_output_bias():
    block = FeedForward(tiny_base(), 7)
    x, block.z_int, block.z_ffn = torch.randn(2, 3, 24), torch.rand(7), torch.tensor([0.6])
    inner = gelu(x @ block.fc1.weight.T + block.fc1.bias) * block.z_int
    expected = 0.6 * (inner @ block.fc2.weight.T + block.fc2.bias)
    assert (block(x) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("kinds", [("mha", "qk", "vo", "ffn", "int"), ("mha", "head", "ffn", "int")])
def test_every_mask_gets_a_gradient_and_empty_slots_are_the_dense_model(kinds):
    encoder = random_encoder(tiny_base(), seed=0)
    wavs = torch.randn(1, 1500)
    dense = encoder(wavs).hidden_states[-1]
    masks = random_masks(encoder.spec, seed=1, kinds=kinds)
    leaves = {slot: z.fill_(0.9).clone().requires_grad_() for slot, z in masks.items()}
    encoder.set_masks(leaves)
    masked = encoder(wavs).hidden_states[-1]
    assert (masked - dense).abs().max() > 0.01
    masked.square().sum().backward()
    assert len(leaves) == len(kinds) * encoder.config.num_layers
    assert all(leaf.grad.abs().min() > 0 for leaf in leaves.values())
    encoder.set_masks(None)
    assert torch.equal(encoder(wavs).hidden_states[-1], dense)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)])
@pytest.mark.parametrize("seconds", [2, 10, 100])
@pytest.mark.parametrize("loudness, offset", [(0.1, 0.0), (0.1, 0.3), (0.003, 0.0)])
def test_a_padded_batch_is_normalised_in_half_precision_as_in_double(dtype, tolerance, seconds, loudness, offset):
    """Over 65,504 samples, which is the largest number of fp16, too; the tolerance is three roundings of the type."""
    samples = seconds * 16_000
    wavs = torch.randn(2, samples, generator=torch.Generator().manual_seed(seconds)) * loudness + offset
    wavs[1, samples // 2 :] = 0
    half = wavs.to(dtype)
    found = normalize_utterances(half, torch.tensor([samples, samples // 2]))
    assert found.dtype == dtype and not found[1, samples // 2 :].any()
    for row, wav in ((found[0], half[0]), (found[1, : samples // 2], half[1, : samples // 2])):
        exact = wav.double()
        exact = (exact - exact.mean()) / (exact.var(unbiased=False) + 1e-5).sqrt()
        assert float((row.double() - exact).norm() / exact.norm()) < tolerance


@pytest.mark.parametrize("name", tiny_families())
@pytest.mark.parametrize("lengths", [(2000, 60), (60, 2000, 1), (2000, 0), (99,), (60, 60), (60, 7), (1,), (0,)])
@pytest.mark.parametrize("training", [False, True])
def test_an_utterance_below_one_frame_has_one_and_leaves_the_others_alone(name, lengths, training):
    """The tiny models' frame is 100 samples."""
    config = tiny_families()[name]
    assert config.frame_samples == 100 and config.num_frames(100) == 1 and config.num_frames(99) == 0
    encoder = random_encoder(config, seed=1).train(training)
    wavs = [torch.randn(length, generator=torch.Generator().manual_seed(length)) * 0.1 for length in lengths]
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    with torch.set_grad_enabled(training):
        output = encoder.encode_raw(padded, torch.tensor(lengths))
    assert all(state.isfinite().all() for state in output.hidden_states)
    short = [place for place, length in enumerate(lengths) if length < 100]
    assert output.frame_lengths[short].tolist() == [1] * len(short)
    if training:
        sum(state.square().sum() for state in output.hidden_states).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())
    elif max(lengths) == 2000:
        long = lengths.index(2000)
        with torch.no_grad():
            alone = encoder.encode_raw(padded[[long]]).hidden_states
        for state, other in zip(output.hidden_states, alone, strict=True):
            torch.testing.assert_close(state[long], other[0], rtol=1e-4, atol=1e-4)


def test_masks_for_another_number_of_layers_are_refused():
    encoder = SpeechEncoder(tiny_base(num_layers=2))
    with pytest.raises(ValueError, match=r"\(2, 'z_mha'\): must be a slot of this encoder"):
        encoder.set_masks(random_masks(CompactSpec.dense(tiny_base()), seed=0))
    with pytest.raises(ValueError, match=r"\(1, 'z_int'\): must be a slot .* with as many masks, but has 3"):
        encoder.set_masks({(1, "z_int"): torch.ones(3)})


@pytest.mark.parametrize("config", [tiny_base(), tiny_large(conv_bias=True)], ids=["base", "large"])
def test_a_masked_cnn_stays_near_itself_in_half_precision(config):
    encoder = random_encoder(config, seed=0)
    conv_masks = random_conv_masks(encoder.spec, config, seed=2)
    encoder.set_masks(conv_masks)
    wavs = 0.3 * torch.randn(1, 1600, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = encoder.feature_projection(encoder.feature_extractor(wavs))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = encoder.feature_projection(encoder.feature_extractor(wavs)).float()
    assert 0 < (found - exact).norm() / exact.norm() < 0.05


def test_masks_of_ones_on_the_cnn_change_nothing_and_an_emptied_slot_is_empty():
    for config in (tiny_base(), tiny_large()):
        encoder = random_encoder(config, seed=0).double()
        wavs = torch.randn(1, 1600, generator=torch.Generator().manual_seed(0)).double()
        with torch.no_grad():
            plain = encoder(wavs).hidden_states
            encoder.set_masks({(i, "z_conv"): torch.ones(c).double() for i, (c, _, _) in enumerate(config.conv_layers)})
            masked = encoder(wavs).hidden_states
            encoder.set_masks(None)
            again = encoder(wavs).hidden_states
        assert max(float((a - b).abs().max()) for a, b in zip(plain, masked)) < 1e-9
        assert all(torch.equal(a, b) for a, b in zip(plain, again))
