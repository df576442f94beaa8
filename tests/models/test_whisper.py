"""Whisper's front end and windows: frames, batches, long audio. `tests/parity` compares it with transformers'."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s3prl_pruned.config import UserError
from s3prl_pruned.models import families
from s3prl_pruned.models.accelerate.int8 import quantize_int8
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base, tiny_whisper
from s3prl_pruned.models.encoder import SpeechEncoder, freeze_idle, in_window
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.counts import macs, parameters, prunable_weights

WINDOWS = ["utterance", "padded"]
SIZE = 8000
"""Samples of a tiny window, 25 frames."""


def make(window, **changes):
    config = tiny_whisper(window=window, **changes)
    return random_encoder(config, seed=1, spec=random_spec(config, seed=4, channels=True)).double()


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def everything(output):
    return [*output.hidden_states, output.projected, output.before_norm]


def test_tiny_ens_encoder_has_its_known_size():
    config = families.whisper_tiny()
    counts = parameters(config, CompactSpec.dense(config))
    assert sum(counts.values()) - counts["mask_embedding"] == 7_632_384
    with torch.device("meta"):
        assert sum(counts.values()) == SpeechEncoder(config).num_parameters()
    assert prunable_weights(config, CompactSpec.dense(config)) == 4 * 12 * 384**2
    assert config.num_frames(30 * 16_000) == 1500 and config.hop_samples == 320 and config.num_states == 5


@settings(max_examples=200, deadline=None)
@given(samples=st.integers(160, 40_000), window=st.sampled_from(WINDOWS))
def test_frames_are_as_many_as_whispers_and_windows_add_up(samples, window):
    config = tiny_whisper(window=window)
    assert config.num_frames(samples) == -(-(samples // 160) // 2)
    assert config.num_frames(torch.tensor([samples])).tolist() == [config.num_frames(samples)]
    lengths = config.window_lengths(samples)
    if window == "utterance" and samples <= SIZE:
        assert lengths == [samples]
    else:
        assert set(lengths) == {SIZE} and sum(lengths) - samples in range(SIZE)
    pieces = [min(SIZE, samples - start) for start in range(0, samples, SIZE)]
    assert sum(map(config.num_frames, pieces)) == config.num_frames(samples)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("samples", [100, 160, 240, 1600, SIZE - 1, SIZE, SIZE + 1, 2 * SIZE + 3000])
def test_the_feature_extractor_makes_the_frames_that_are_counted(window, samples):
    encoder = make(window)
    with torch.no_grad():
        output = encoder(noise(1, samples))
    frames = max(1, encoder.config.num_frames(samples))
    assert {state.shape[1] for state in everything(output)} == {frames} and output.frame_lengths.tolist() == [frames]
    assert len(output.hidden_states) == 4 and all(state.isfinite().all() for state in everything(output))


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("others", [[9000, 3001, 100], [SIZE, SIZE - 1, SIZE - 160], [700, 500, 321]])
def test_a_padded_batch_equals_its_single_utterances(window, others):
    encoder, lengths = make(window), torch.tensor([max(others) + 2500, *others])
    wavs = noise(len(lengths), int(lengths.max()))
    wavs[1, int(lengths[1]) - 1] = 5  # the loudest sample is the last
    wavs = wavs.masked_fill(torch.arange(wavs.shape[1]) >= lengths[:, None], 0)
    with torch.no_grad():
        batch = encoder(wavs, lengths)
        for i, length in enumerate(lengths.tolist()):
            single = encoder(wavs[i : i + 1, :length])
            frames = int(batch.frame_lengths[i])
            assert single.frame_lengths.tolist() == [frames]
            for x, y in zip(everything(batch), everything(single), strict=True):
                torch.testing.assert_close(x[i : i + 1, :frames], y, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("window", WINDOWS)
def test_long_audio_is_its_windows_one_after_the_other(window):
    encoder, wav = make(window), noise(1, 2 * SIZE + 3000)
    with torch.no_grad():
        whole = everything(encoder(wav))
        parts = [everything(encoder(part)) for part in wav.split(SIZE, 1)]
    for state, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(state, torch.cat(pieces, 1), atol=1e-10, rtol=1e-10)


def test_silence_is_heard_in_a_padded_window_and_not_in_one_of_the_utterances_length():
    short, padded = make("utterance"), make("padded")
    longer = tiny_whisper(max_frames=50, window="padded")
    other = random_encoder(longer, seed=1, spec=padded.spec).double()
    weights = {k: v for k, v in padded.state_dict().items() if k != "positional_convolution.embedding"}
    other.load_state_dict(weights, strict=False)
    with torch.no_grad():
        a, b, c = (encoder(noise(1, 3000)).hidden_states for encoder in (short, padded, other))
    torch.testing.assert_close(a[0], b[0], atol=1e-12, rtol=0)  # the convolutions hear the same
    torch.testing.assert_close(b[0], c[0], atol=1e-12, rtol=0)
    assert min((a[-1] - b[-1]).abs().max(), (b[-1] - c[-1]).abs().max()) > 1e-6


def test_in_window_changes_the_window_alone():
    encoder = make("utterance")
    changed = in_window(encoder, "padded")
    assert in_window(encoder, "own") is encoder and in_window(encoder, "utterance") is encoder
    assert changed.config == replace(encoder.config, window="padded") and changed.spec == encoder.spec
    with torch.no_grad():
        expected, found = make("padded")(noise(1, 900)), changed(noise(1, 900))
    assert all(torch.equal(x, y) for x, y in zip(everything(found), everything(expected), strict=True))
    with pytest.raises(UserError, match="`window` must be utterance where there is no `max_frames`"):
        in_window(random_encoder(tiny_base(), seed=0), "padded")


def test_macs_are_those_of_the_windows():
    padded, short = tiny_whisper(window="padded"), tiny_whisper()
    dense = CompactSpec.dense(short)
    assert macs(padded, dense, 100) == macs(padded, dense, SIZE)
    whole, silent = macs(padded, dense, SIZE), macs(short, dense, SIZE)
    assert whole["attention"] == silent["attention"] and whole["feed_forward"] == silent["feed_forward"]
    assert 0 < silent["cnn"] - whole["cnn"] < 0.1 * whole["cnn"]  # a few frames of silence behind the audio
    assert macs(short, dense, 2 * SIZE) == {part: 2 * count for part, count in macs(short, dense, SIZE).items()}
    assert macs(short, dense, 4000)["attention"] < macs(short, dense, SIZE)["attention"] / 2


def test_the_key_map_has_no_bias_and_would_not_be_heard():
    with_bias = random_encoder(tiny_whisper(key_bias=True), seed=1)
    silent = SpeechEncoder(tiny_whisper()).eval()
    gone = [name for name in with_bias.state_dict() if name.endswith("k_proj.bias")]
    assert len(gone) == 3 and not any(name in silent.state_dict() for name in gone)
    silent.load_state_dict({k: v for k, v in with_bias.state_dict().items() if k not in gone})
    with torch.no_grad():
        for x, y in zip(*(e.double()(noise(1, 3000)).hidden_states for e in (with_bias, silent)), strict=True):
            torch.testing.assert_close(x, y, atol=1e-10, rtol=0)


@pytest.mark.parametrize("window", WINDOWS)
def test_freeze_idle_leaves_what_a_gradient_reaches(window):
    encoder = random_encoder(tiny_whisper(window=window), seed=1, spec=make(window).spec)
    freeze_idle(encoder)
    generator = torch.Generator().manual_seed(0)
    states = encoder.train()(noise(2, 3000).float()).hidden_states
    sum((state * torch.randn(state.shape, generator=generator)).sum() for state in states).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None and bool(parameter.grad.any())), name


@pytest.mark.parametrize("window", WINDOWS)
def test_int8_is_near_and_its_convolutions_are_int8(window):
    config = tiny_whisper(window=window, embed_dim=64, ffn_dim=96, conv_layers=((64, 3, 1), (64, 3, 2)))
    encoder = random_encoder(config, seed=1)
    small = quantize_int8(encoder)
    assert {v.dtype for k, v in small.state_dict().items() if "conv" in k and "weight" in k} == {torch.int8}
    with torch.inference_mode():
        wavs = noise(2, SIZE + 4000).float()
        lengths = torch.tensor([SIZE + 4000, 3000])
        wavs[1, 3000:] = 0
        exact, found = encoder(wavs, lengths).hidden_states, small(wavs, lengths).hidden_states
    for x, y in zip(exact, found, strict=True):
        assert 0 < (x - y)[0].norm() / x[0].norm() < 0.1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"max_frames": None}, "`front_end` log_mel, .* must be given together or not at all"),
        ({"extractor_mode": "layer_norm"}, "must be given together"),
        ({"front_end": "waveform"}, "must be given together"),
        ({"normalize_waveform": True}, "`normalize_waveform` must be false"),
        ({"padding_rule": "chunks"}, "`padding_rule` convolution"),
        ({"conv_layers": ((24, 4, 2),)}, "must be odd"),
        ({"embed_dim": 25, "num_heads": 5}, "`embed_dim` must be even"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        tiny_whisper(**changes).validate()
