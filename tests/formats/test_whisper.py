"""Whisper's checkpoints: read if they fit, refused with the reason if not. `tests/parity` has live models."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.registry import read, write
from s3prl_pruned.models.dummies import random_encoder, random_spec, tiny_whisper, tiny_whispers
from s3prl_pruned.models.spec import CompactSpec
from tests.whisper_files import openai_checkpoint, write_huggingface

CONFIG = tiny_whisper(ffn_dim=96)
"""OpenAI's files have 4 D feed-forward dimensions."""


@pytest.fixture
def encoder():
    return random_encoder(CONFIG, seed=1)


@pytest.fixture
def checkpoint(encoder):
    return openai_checkpoint(encoder)


def same_weights(found, expected, dtype=torch.float32):
    state = expected.state_dict()
    assert found.config == expected.config
    for name, value in found.state_dict().items():
        foreign = name == "mask_embedding" and found.spec == CompactSpec.dense(found.config)
        wanted = torch.zeros_like(value) if foreign else state[name].to(dtype).float()
        assert torch.equal(value, wanted), name


def test_openais_file_is_read_bit_for_bit_in_fp32(encoder, checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / "tiny.pt")
    loaded = read(tmp_path / "tiny.pt")
    same_weights(loaded.encoder, encoder, torch.float16)
    assert len(loaded.sha256) == 64 and loaded.provenance["source"]["name"] == "tiny.pt"
    assert {p.dtype for p in loaded.encoder.parameters()} == {torch.float32}


def test_only_the_encoder_of_hugging_faces_folder_is_read(encoder, tmp_path, caplog):
    write_huggingface(tmp_path / "x", encoder)
    for path in (tmp_path / "x", tmp_path / "x" / "model.safetensors"):
        same_weights(read(path).encoder, encoder)
    assert not caplog.records  # no warning about Whisper's decoder


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("n_audio_layer", 2, "unknown keys .*encoder.blocks.2"),
        ("n_audio_layer", 2.5, "`n_audio_layer` must be a whole number, but is '2.5'"),
        ("n_audio_layer", None, "`n_audio_layer` must be a whole number"),
        ("n_audio_state", 28, "must have shape .*28"),
        ("n_audio_head", 5, "`embed_dim` must be a multiple of `num_heads`, but they are 24 and 5"),
        ("n_audio_ctx", 10**9, "`max_frames` must be from 1 to 100000"),
        ("n_audio_ctx", 26, "`encoder.positional_embedding` must have shape"),
        ("n_mels", 0, "`mel_bins` must be from 1 to 1000"),
    ],
)
def test_sizes_that_are_invalid_or_do_not_fit_are_refused(key, value, message, checkpoint, tmp_path):
    checkpoint["dims"][key] = value
    torch.save(checkpoint, tmp_path / "x.pt")
    with pytest.raises(UserError, match=f"x.pt.*{message}"):
        read(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda c: c["dims"].pop("n_mels"), "lacks 'n_mels'"),
        (lambda c: c.update(dims=None), "is damaged: its configuration is not valid"),
        (lambda c: c["model_state_dict"].pop("encoder.blocks.1.attn.key.weight"), "missing keys .*attn.key.weight"),
        (lambda c: c["model_state_dict"].update({"encoder.blocks.1.attn.key.bias": torch.zeros(24)}), "unknown keys"),
        (lambda c: c["model_state_dict"].update({"encoder.conv2.weight": 3}), "must be a tensor, but is a int"),
    ],
)
def test_damaged_files_are_refused(break_it, message, checkpoint, tmp_path):
    break_it(checkpoint)
    torch.save(checkpoint, tmp_path / "x.pt")
    with pytest.raises(UserError, match=message):
        read(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "file, key, value, message",
    [
        ("config.json", "activation_function", "relu", "`activation_function` must be 'gelu'"),
        ("config.json", "encoder_layers", "2", "`encoder_layers` must be a whole number"),
        ("config.json", "encoder_ffn_dim", None, "`encoder_ffn_dim` must be a whole number"),
        ("preprocessor_config.json", "hop_length", 320, "its feature extractor: `hop_length` must be 160"),
    ],
)
def test_another_architecture_is_refused(file, key, value, message, encoder, tmp_path):
    write_huggingface(tmp_path / "x", encoder)
    cfg = json.loads((tmp_path / "x" / file).read_text())
    (tmp_path / "x" / file).write_text(json.dumps({**cfg, key: value}))
    with pytest.raises(UserError, match=message):
        read(tmp_path / "x")


@pytest.mark.parametrize("name", ["whisper", pytest.param("whisper_padded", marks=pytest.mark.slow)])
def test_onnx_runtime_gives_the_same_states_and_refuses_more_than_a_window(name, tmp_path, relative_differences):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    config = replace(tiny_whispers()[name], num_layers=1)
    encoder = random_encoder(config, seed=1, spec=random_spec(config, seed=4, channels=True))
    write(tmp_path / "x.onnx", "onnx", encoder)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"), options)

    def run(wav):
        found = session.run(None, {"waveform": wav.numpy(), "lengths": np.array([wav.shape[1]])})
        return [torch.from_numpy(state) for state in found]

    for samples in (700, 5000, 32_000):
        wav = 0.1 * torch.randn(1, samples)
        with torch.no_grad():
            assert max(relative_differences(run(wav), encoder(wav).hidden_states)) < 2e-5
    with pytest.raises(Exception, match="node_add"):
        run(torch.randn(1, 32_320))


def test_transformers_gives_the_same_states_with_our_code(tmp_path):
    """The export itself compares all states in another process; `tests/parity` has transformers' own Whisper."""
    pytest.importorskip("transformers")
    config = tiny_whispers()["whisper_padded"]
    encoder = random_encoder(config, seed=1, spec=random_spec(config, seed=4, channels=True))
    write(tmp_path / "x", "huggingface", encoder)
    same_weights(read(tmp_path / "x").encoder, encoder)
    cfg = json.loads((tmp_path / "x" / "config.json").read_text())
    assert (cfg["conv_stride"], cfg["conv_kernel"], cfg["model_type"]) == ([160, 2], [720, 3], "s3prl_pruned")


@pytest.mark.parametrize("fmt", ["microsoft", "s3prl", "fairseq", "torchaudio"])
def test_formats_that_cannot_express_it_refuse_it(fmt, encoder, tmp_path):
    with pytest.raises(UserError, match=r"`front_end`|holds WavLM only|has no whisper"):
        write(tmp_path / "x", fmt, encoder)
    assert not (tmp_path / "x").exists()
