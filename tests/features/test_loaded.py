"""`s3prl_pruned.load`: hidden states equal those of the encoder and of s3prl's interface, for all forms of audio."""

import copy
import pickle

import numpy as np
import pytest
import soundfile
import torch

import s3prl_pruned
from s3prl_pruned.config import UserError
from s3prl_pruned.formats import registry
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base, tiny_families, tiny_large
from s3prl_pruned.sparsity.counts import parameters
from s3prl_pruned.upstream.expert import UpstreamExpert


@pytest.fixture(name="export")
def _export(tmp_path):
    return written(tmp_path / "export", tiny_base())


def written(path, config):
    encoder = random_encoder(config, seed=1, spec=random_spec(config, seed=1))
    registry.write(path, "folder", encoder, {"license": "mit", "teacher_note": "random teacher"})
    return path


@pytest.mark.parametrize("config", [tiny_base(), tiny_large(normalize_waveform=True)])
def test_states_equal_those_of_the_upstream(config, tmp_path):
    path = written(tmp_path / "export", config)
    wavs = [torch.randn(2000), torch.randn(3100)]
    found = s3prl_pruned.load(path).extract(wavs)
    for wav, states in zip(wavs, found, strict=True):
        expected = torch.cat(UpstreamExpert(path)([wav])["hidden_states"])
        torch.testing.assert_close(states, expected.detach(), rtol=0, atol=1e-5)
        assert states.shape[0] == config.num_layers + 1


def test_a_file_an_array_and_another_sample_rate_give_the_same_states(export, tmp_path):
    encoder = s3prl_pruned.load(export)
    samples = (0.1 * np.random.default_rng(0).standard_normal(4000)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    expected = encoder.extract(torch.from_numpy(samples))
    for audio in (samples, tmp_path / "a.wav", str(tmp_path / "a.wav")):
        assert torch.equal(encoder.extract(audio), expected)
    soundfile.write(tmp_path / "b.wav", samples, 8_000, subtype="FLOAT")
    slow = encoder.extract(samples, sample_rate=8_000)
    assert torch.equal(encoder.extract(tmp_path / "b.wav"), slow) and slow.shape[1] > expected.shape[1]


def test_one_layer_equals_that_layer_of_all(export):
    encoder, wav = s3prl_pruned.load(export), torch.randn(2000)
    states = encoder.extract(wav)
    for layer in (0, 1, -1):
        assert torch.equal(encoder.extract(wav, layer=layer), states[layer])
    for layer in (len(states), -len(states) - 1):
        with pytest.raises(UserError, match="`layer` must be from 0 to"):
            encoder.extract(wav, layer=layer)


def test_gradients_flow_if_they_are_enabled(export):
    encoder = s3prl_pruned.load(export)
    encoder(torch.randn(1, 2000)).hidden_states[-1].sum().backward()
    assert any(parameter.grad is not None for parameter in encoder.parameters())
    assert not encoder.extract(torch.randn(2000)).requires_grad


def test_a_saved_model_is_the_same_when_loaded_again(export, tmp_path):
    encoder, wav = s3prl_pruned.load(export), torch.randn(2000)
    encoder.save(tmp_path / "again")
    again = s3prl_pruned.load(tmp_path / "again")
    assert torch.equal(again.extract(wav), encoder.extract(wav))
    with pytest.raises(UserError, match="exists already"):
        encoder.save(tmp_path / "again")
    for copied in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(copied.extract(wav), encoder.extract(wav))


def test_info_says_what_is_pruned(export):
    encoder = s3prl_pruned.load(export)
    info = encoder.info()
    inner = encoder.encoder
    assert info["parameters"] == sum(parameters(inner.config, inner.spec).values())
    assert info["license"] == "mit" and info["provenance"]["teacher_note"] == "random teacher"
    assert 0 < info["sparsity"] < 1 and info["macs_5s"] < info["dense_macs_5s"]
    kept = [sum(vo for _, vo in layer["heads"].values()) for layer in info["layers"]]
    assert kept == [sum(layer.attention.vo_heads.sizes) if layer.attention else 0 for layer in inner.layers]


@pytest.mark.parametrize("name", ["embedded", "random"])
def test_names_of_s3prls_hub_are_known(name):
    assert s3prl_pruned.load(name).extract(torch.randn(1600), layer=-1).dim() == 2


@pytest.mark.parametrize(
    ("audio", "said"),
    [(torch.randn(2, 100), r"shape \(S,\)"), (np.zeros(0), r"shape \(S,\)"), ("nowhere.wav", "nowhere.wav")],
)
def test_wrong_audio_is_one_clear_error(export, audio, said):
    with pytest.raises(UserError, match=said):
        s3prl_pruned.load(export).extract(audio)


def test_an_unknown_name_is_one_clear_error():
    with pytest.raises(UserError, match="wavlm_bas"):
        s3prl_pruned.load("wavlm_bas")


def test_every_family_is_loaded(tmp_path):
    for name, config in tiny_families().items():
        encoder = s3prl_pruned.load(written(tmp_path / name, config))
        assert encoder.info()["family"] == config.family
