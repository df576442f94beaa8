"""The hidden states that a model publishes, and architectures that no public dense model has: in every interface."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

import s3prl_pruned
from s3prl_pruned.commands import extract
from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.formats import registry
from s3prl_pruned.formats.folder import CONFIG
from s3prl_pruned.models.accelerate.int8 import quantize_int8
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_base, tiny_families, tiny_large, tiny_peculiar
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.state_rule import StateRule
from s3prl_pruned.timing.adapters import encode_ours
from s3prl_pruned.timing.exports import dense_shape
from s3prl_pruned.upstream.expert import UpstreamExpert
from s3prl_pruned.upstream.hubconf import hubert_pruned_local, wavlm_pruned_local

PECULIAR = tiny_peculiar()
WAV = 0.3 * torch.randn(2000, generator=torch.Generator().manual_seed(0))


def pruned(config):
    return random_encoder(config, seed=1, spec=random_spec(config, seed=4, channels=True))


def published(encoder, wav=WAV):
    with torch.no_grad():
        return encoder.states(encoder.encode_raw(wav[None]))


def of_hooks(encoder, wav=WAV):
    """What modules gave on the way: the projection, the positional convolution, and each layer."""
    seen = []
    parts = [encoder.feature_projection, encoder.positional_convolution, *encoder.layers, encoder.layer_norm]
    hooks = [part.register_forward_hook(lambda part, given, made: seen.append(made)) for part in parts]
    with torch.no_grad():
        encoder.encode_raw(wav[None])
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("first", ["input", "projection", "none"])
@pytest.mark.parametrize("final_norm", [True, False])
def test_states_are_those_that_the_rule_names(first, final_norm):
    for config in (tiny_base(), tiny_large()):
        encoder = pruned(replace(config, states=StateRule(first=first, final_norm=final_norm)))
        found, (projection, position, *rest) = published(encoder), of_hooks(encoder)
        if config.norm_first:
            layers, last = rest[:-1], rest[-1]
            start = projection + position
        else:
            start, layers = rest[0], rest[1:]  # the encoder's norm comes before the layers
            last = layers[-1]
        expected = {"input": [start], "projection": [projection], "none": []}[first]
        expected += [*layers[:-1], last if final_norm else layers[-1]]
        assert len(found) == len(expected) == encoder.config.num_states
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_padded_frames_of_the_projected_features_are_zero():
    encoder = pruned(PECULIAR["scaled_base"])
    output = encoder(torch.randn(2, 2000), torch.tensor([2000, 900]))
    assert not output.projected[1, output.frame_lengths[1] :].any() and output.projected[0].all(-1).any()


def test_what_training_sees_and_the_default_rule_do_not_depend_on_the_models_own():
    for config in PECULIAR.values():
        encoder = pruned(config)
        output = encoder(WAV[None])
        assert len(output.hidden_states) == config.num_layers + 1
        other = pruned(replace(config, states=StateRule()))
        for states in (output.hidden_states, encoder.states(output, StateRule())):
            assert all(torch.equal(a, b) for a, b in zip(other.states(other(WAV[None])), states, strict=True))


@pytest.mark.parametrize("name", PECULIAR)
def test_the_projection_is_what_the_configuration_says(name):
    encoder = pruned(PECULIAR[name])
    part, x = encoder.feature_projection, torch.randn(1, 7, len(encoder.spec.channels[-1]))
    y = x * part.channel_scale if encoder.config.channel_scale else x
    if encoder.config.projection_norm:
        y = F.layer_norm(y, y.shape[-1:], part.layer_norm.weight, part.layer_norm.bias)
    assert torch.equal(part(x), part.projection(y))
    if encoder.config.channel_scale:
        with torch.no_grad():
            part.channel_scale[0] += 1
        assert not torch.allclose(part(x), part.projection(y))


def test_a_configuration_without_peculiarities_is_written_as_it_always_was():
    plain = to_dict(tiny_base())
    assert not {"channel_scale", "projection_norm", "states"} & plain.keys() and len(plain) == 22
    for config in PECULIAR.values():
        again = from_dict(EncoderConfig, json.loads(json.dumps(to_dict(config))), "config.json")
        assert again == config and to_dict(config) != to_dict(replace(config, states=StateRule(), channel_scale=False))


def test_an_unknown_rule_is_one_clear_error():
    with pytest.raises(UserError, match="x: states.first: must be one of input, projection, none, but is 'last'"):
        from_dict(EncoderConfig, {"states": {"first": "last"}}, "x")
    with pytest.raises(UserError, match="`states` must be own .* or s3prl .*, but is 's3pr'"):
        s3prl_pruned.load("random", states="s3pr")


@pytest.mark.parametrize("name", PECULIAR)
def test_the_folder_the_upstream_and_load_publish_them(name, tmp_path, relative_differences):
    encoder = pruned(PECULIAR[name])
    registry.write(tmp_path / "x", "folder", encoder)
    assert registry.read(tmp_path / "x").encoder.config == encoder.config
    said = {
        "scaled_large": "Hidden states: the projection's output and the outputs of its 3 layers, the last one wi",
        "without_norm": "Hidden states: the outputs of its 3 layers, as its authors' program gives them.",
        "mapped": "the outputs of its 3 layers, each through a linear map to 20 dimensions, as its",
        "predicting": "and 2 predictions made of the last one, as its authors'",
    }
    card = (tmp_path / "x" / "README.md").read_text()
    assert said.get(name, "sha256 of model.safetensors") in card and ("Hidden states:" in card) == (
        encoder.config.states != StateRule()
    )
    with torch.no_grad():
        of_s3prl = encoder.encode_raw(WAV[None]).hidden_states
        own = encoder.states(encoder.encode_raw(WAV[None]))
        for states, expected in (("own", own), ("s3prl", of_s3prl)):
            upstream = UpstreamExpert(tmp_path / "x", states=states).eval()([WAV])["hidden_states"]
            loaded = s3prl_pruned.load(tmp_path / "x", states=states)
            for found in (upstream, loaded(WAV[None]).hidden_states, list(loaded.extract(WAV)[:, None])):
                assert max(relative_differences(found, expected)) <= 2e-5
            assert loaded.num_states == loaded.info()["states"] == len(expected)
        hub = {"wavlm": wavlm_pruned_local, "hubert": hubert_pruned_local}[encoder.config.family]
        assert len(hub(tmp_path / "x", states="s3prl")([WAV])["hidden_states"]) == len(of_s3prl)
        made = encode_ours(encoder, encoder, torch.float32)
        assert max(relative_differences(made([WAV]), own)) <= 2e-5
    if encoder.config.states != StateRule():
        assert len(own) != len(of_s3prl) or max(relative_differences(own, of_s3prl)) > 1e-3


@pytest.mark.parametrize("name", PECULIAR)
def test_int8_publishes_them_and_is_read_again(name, tmp_path, relative_differences):
    config = PECULIAR[name]
    heads = config.states.heads
    wide = None if heads is None else replace(heads, dim=64, inner_dim=64)  # large enough to be int8
    config = replace(config, embed_dim=64, ffn_dim=96, states=replace(config.states, heads=wide))
    small = quantize_int8(pruned(config))
    registry.write(tmp_path / "x", "folder", small)
    again = registry.read(tmp_path / "x", int8=True).encoder
    with torch.inference_mode():
        found, expected, exact = (e.states(e.encode_raw(WAV[None])) for e in (again, small, pruned(config)))
    assert max(relative_differences(found, expected)) <= 2e-5
    assert 1e-6 < max(relative_differences(found, exact)) < 0.3


@pytest.mark.slow
def test_transformers_gives_them(tmp_path):
    """The export itself compares all states in another process: here, that it compares those."""
    pytest.importorskip("transformers")
    encoders = {name: pruned(PECULIAR[name]) for name in ("scaled_large", "scaled_base")}
    for name, encoder in encoders.items():
        registry.write(tmp_path / name, "huggingface", encoder)
    dense = random_encoder(PECULIAR["without_norm"], seed=1)  # no model of transformers' own is like it
    registry.write(tmp_path / "dense", "huggingface", dense)
    assert json.loads((tmp_path / "dense" / CONFIG).read_text())["model_type"] == "s3prl_pruned"
    for path, expected in {**encoders, "dense": dense}.items():
        assert registry.read(tmp_path / path).encoder.config == expected.config


@pytest.mark.parametrize("name", [pytest.param("scaled_large", marks=pytest.mark.slow), "without_norm"])
def test_onnx_runtime_gives_them(name, tmp_path, relative_differences):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    config = replace(PECULIAR[name], num_layers=1)
    encoder = random_encoder(config, seed=1, spec=random_spec(config, seed=4, channels=True))
    registry.write(tmp_path / "x.onnx", "onnx", encoder)
    given = {"waveform": WAV[None].numpy(), "lengths": np.array([2000])}
    found = onnxruntime.InferenceSession(str(tmp_path / "x.onnx")).run(None, given)
    assert max(relative_differences([torch.from_numpy(state) for state in found], published(encoder))) <= 2e-5


@pytest.mark.parametrize("fmt", ["microsoft", "s3prl", "fairseq", "torchaudio"])
@pytest.mark.parametrize("name", PECULIAR)
def test_a_format_that_cannot_say_it_refuses(name, fmt, tmp_path):
    config = PECULIAR[name]
    if fmt == "fairseq" and config.family == "wavlm":
        config = replace(config, family="hubert", relative_position=False, gated_position=False)
    if fmt == "microsoft" and config.family == "hubert":
        config = replace(config, family="wavlm")
    with pytest.raises(UserError, match="format cannot hold this encoder's .*(channel_scale|projection_norm|states)"):
        registry.write(tmp_path / "x", fmt, random_encoder(config, seed=1))
    assert not any(tmp_path.iterdir())


def test_the_command_writes_what_it_is_asked_for_and_no_mixture(tmp_path):
    encoder = pruned(PECULIAR["scaled_large"])
    registry.write(tmp_path / "model", "folder", encoder)
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", WAV.numpy(), 16_000, subtype="FLOAT")
    line = [str(tmp_path / "model"), str(tmp_path / "audio"), "--layer", "0"]
    for states in ("own", "s3prl"):
        extract.main([*line, "--states", states, "--output", str(tmp_path / states)])
    own, other = (np.load(tmp_path / states / "a.npy") for states in ("own", "s3prl"))
    np.testing.assert_allclose(own, published(encoder)[0][0], atol=1e-4)
    assert np.abs(own - other).max() > 0.1
    with pytest.raises(UserError, match="holds other features: .*states.*projection.*.*, but .*input.* are requested"):
        extract.main([*line, "--states", "s3prl", "--output", str(tmp_path / "own")])


def test_features_of_before_the_rules_are_those_of_the_default_rule(tmp_path):
    config = tiny_families()["hubert_base"]
    registry.write(tmp_path / "model", "folder", pruned(config))
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", WAV.numpy(), 16_000, subtype="FLOAT")
    line = [str(tmp_path / "model"), str(tmp_path / "audio"), "--output", str(tmp_path / "out")]
    extract.main(line)
    about = json.loads((tmp_path / "out" / "features.json").read_text())
    before = {key: value for key, value in about.items() if key != "states"}
    (tmp_path / "out" / "features.json").write_text(json.dumps(before))
    extract.main(line)


def test_students_of_one_teacher_share_a_dense_shape():
    assert dense_shape(PECULIAR["scaled_large"]) == dense_shape(tiny_large())
