"""Whisper's encoder against transformers' own, live, with random weights: log-mel, states, and both file formats."""

import json

import numpy as np
import pytest
import torch

from s3prl_pruned.formats import registry
from s3prl_pruned.formats.huggingface_whisper import KEYS
from s3prl_pruned.formats.whole_whisper import put_back
from s3prl_pruned.models.compact import whole
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_whisper
from s3prl_pruned.models.log_mel import LogMel, mel_filters

transformers = pytest.importorskip("transformers")

SPEECH = {  # samples: a window is half a second
    "a tenth of a second": 1600,
    "just a window": 8000,
    "all but a sample": 7999,
    "a hop and a half": 240,
}


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def their_config(config):
    return transformers.WhisperConfig(
        d_model=config.embed_dim,
        encoder_layers=config.num_layers,
        encoder_attention_heads=config.num_heads,
        encoder_ffn_dim=config.ffn_dim,
        num_mel_bins=config.mel_bins,
        max_source_positions=config.max_frames,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=8,
        vocab_size=60,
        max_target_positions=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


def theirs_of(encoder, dtype=torch.float64):
    """Their model with our encoder's weights, renamed by the key table that reads their files."""
    model = transformers.WhisperModel(their_config(encoder.config)).eval()
    state = model.state_dict()
    for key, ours in KEYS.keys(encoder.config).items():
        assert state[key].shape == encoder.state_dict()[ours].shape
        state[key] = encoder.state_dict()[ours]
    model.load_state_dict(state)
    return model.to(dtype)


def extractor(config):
    made = transformers.WhisperFeatureExtractor(feature_size=config.mel_bins)
    made.n_samples = config.window_samples  # only whole seconds can be requested
    return made


def their_states(model, mel):
    """Their states; the last one is already after the final norm."""
    with torch.no_grad():
        output = model.encoder(mel, output_hidden_states=True)
    return [*output.hidden_states[:-1], output.last_hidden_state]


def padded(seed=0, **changes):
    return random_encoder(tiny_whisper(window="padded", **changes), seed=seed)


@pytest.mark.parametrize("bins", [10, 80, 128])
def test_mel_filters_are_transformers_own(bins):
    from transformers.audio_utils import mel_filter_bank

    theirs = mel_filter_bank(201, bins, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel_filters(bins).numpy(), theirs, atol=1e-12)


@pytest.mark.parametrize("samples", SPEECH.values(), ids=list(SPEECH))
def test_the_log_mel_spectrum_is_that_of_their_feature_extractor(samples):
    config = tiny_whisper(mel_bins=80)
    wav = noise(samples)
    theirs = extractor(config)(wav.numpy(), sampling_rate=16_000, return_tensors="pt")["input_features"]
    window = torch.nn.functional.pad(wav, (0, config.window_samples - samples))[None]
    ours = LogMel(80)(window, config.window_samples // 160, mirrored=True)
    # theirs is in fp32: the quietest values, 8 decades below the loudest, have three correct digits
    assert theirs.shape == ours.shape and (ours - theirs).abs().max() < 2e-3
    assert (ours - theirs).abs().mean() < 1e-5
    assert (LogMel(80)(window.roll(1, 1), ours.shape[-1], mirrored=True) - theirs).abs().mean() > 1e-3


def test_fp32_and_half_precision_compute_the_spectrum_in_fp32():
    wav, spectrum = noise(1, 8000), LogMel(80)
    exact = spectrum(wav, 50, mirrored=True)
    assert (spectrum.half()(wav.float(), 50, mirrored=True) - exact).abs().max() < 2e-3
    assert spectrum.fourier.dtype == torch.float64  # `half` does not convert its matrices


@pytest.mark.parametrize("samples", SPEECH.values(), ids=list(SPEECH))
def test_states_in_padded_windows_are_those_of_their_encoder(samples):
    encoder, wav = padded().double(), noise(1, samples)
    window = torch.nn.functional.pad(wav, (0, encoder.config.window_samples - samples))
    mel = encoder.feature_extractor.heard(window)
    with torch.no_grad():
        ours = encoder(wav).hidden_states
    theirs = their_states(theirs_of(encoder), mel)
    frames = encoder.config.num_frames(samples)
    assert len(ours) == len(theirs) == 4 and ours[0].shape[1] == frames
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y[:, :frames], atol=1e-10, rtol=1e-10)
    changed = padded(seed=1).double()
    assert max((x - y[:, :frames]).abs().max() for x, y in zip(ours, their_states(theirs_of(changed), mel))) > 0.1


def test_states_from_their_feature_extractor_and_encoder_in_fp32():
    encoder, wav = padded(), noise(7000)
    mel = extractor(encoder.config)(wav.numpy(), sampling_rate=16_000, return_tensors="pt")["input_features"]
    theirs = their_states(theirs_of(encoder, torch.float32), mel)
    with torch.no_grad():
        ours = encoder(wav.float()[None]).hidden_states
    for x, y in zip(ours, theirs, strict=True):
        assert (x - y[:, : x.shape[1]]).abs().max() < 2e-5 * y.abs().max().clamp(min=1)


def test_short_windows_differ_from_padded_ones_by_the_silence_that_is_attended_to():
    """State 0 depends only on its convolutions' receptive field; the layers are theirs, run without the silence."""
    encoder, wav = random_encoder(tiny_whisper(), seed=0).double(), noise(1, 5000)
    model = theirs_of(encoder)
    with torch.no_grad():
        ours, whole = encoder(wav).hidden_states, padded().double()(wav).hidden_states
        torch.testing.assert_close(ours[0], whole[0], atol=1e-12, rtol=0)
        assert (ours[1] - whole[1]).abs().max() > 1e-3
        x = ours[0]
        for layer, state in zip(model.encoder.layers, [*ours[1:-1], None], strict=True):
            x = layer(x, None)
            x = x[0] if isinstance(x, tuple) else x
            if state is not None:
                torch.testing.assert_close(state, x, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(ours[-1], model.encoder.layer_norm(x), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", ["WhisperModel", "WhisperForConditionalGeneration", "WhisperForAudioClassification"])
@pytest.mark.parametrize("safe", [True, False])
def test_their_folders_are_read(kind, safe, tmp_path, caplog):
    config = tiny_whisper()
    torch.manual_seed(3)
    model = getattr(transformers, kind)(their_config(config)).eval()
    if safe:
        model.save_pretrained(tmp_path)
    else:
        (tmp_path / "config.json").write_text(json.dumps({**model.config.to_dict(), "model_type": "whisper"}))
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    extractor(config).save_pretrained(tmp_path)
    loaded = registry.read(tmp_path)
    assert loaded.encoder.config == config
    inner = model.model.encoder if kind == "WhisperForConditionalGeneration" else model.encoder
    for theirs, ours in KEYS.keys(config).items():
        found = inner.state_dict()[theirs.removeprefix("encoder.")]
        assert torch.equal(loaded.encoder.state_dict()[ours], found)
    assert not loaded.encoder.mask_embedding.any()


def test_a_pruned_encoder_put_back_into_their_folder_is_loaded(tmp_path):
    config = tiny_whisper(ffn_dim=96)
    model = transformers.WhisperForConditionalGeneration(their_config(config))
    model.save_pretrained(tmp_path / "whole", max_shard_size="10KB")  # in several files
    pruned = random_encoder(config, seed=1, spec=random_spec(config, seed=2))
    put_back(tmp_path / "made", pruned, tmp_path / "whole")
    made, info = transformers.WhisperForConditionalGeneration.from_pretrained(
        tmp_path / "made", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    filled = whole(pruned.float()).state_dict()
    fc1 = made.model.encoder.layers[1].fc1.weight
    assert torch.equal(fc1, filled["layers.1.feed_forward.fc1.weight"])
    assert torch.equal(made.model.decoder.layers[0].fc1.weight, model.model.decoder.layers[0].fc1.weight)
