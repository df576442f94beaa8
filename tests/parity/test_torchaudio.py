"""torchaudio's models and our encoder hold the same weights and compute the same states."""

import pytest
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.registry import read, write
from s3prl_pruned.models.dummies import random_encoder, tiny_families
from s3prl_pruned.timing.adapters import torchaudio_model

TOLERANCE = 2e-5
SHAPES = {name: config for name, config in tiny_families().items() if config.family != "data2vec"}


def differences(encoder, model, wav, relative_differences):
    with torch.no_grad():
        theirs, _ = model.extract_features(wav)
        ours = encoder(wav).hidden_states[1:]  # torchaudio has no state 0
    if encoder.config.norm_first:  # torchaudio does not apply the encoder's last LayerNorm
        ours, theirs = ours[:-1], theirs[:-1]
    return relative_differences(ours, theirs)


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_all_states_equal_torchaudios_with_its_weights(config, tmp_path, waveforms, relative_differences):
    torch.manual_seed(0)
    model = torchaudio_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    torch.save(model.state_dict(), tmp_path / "torchaudio.pt")
    encoder = read(tmp_path / "torchaudio.pt", shape=config).encoder
    assert max(differences(encoder, model, torch.stack(waveforms(4000)), relative_differences)) <= TOLERANCE


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_torchaudio_loads_what_we_write_and_computes_the_same(config, tmp_path, waveforms, relative_differences):
    encoder, model = random_encoder(config, seed=3), torchaudio_model(config).eval()
    write(tmp_path / "ours.pt", "torchaudio", encoder)
    model.load_state_dict(torch.load(tmp_path / "ours.pt", weights_only=True))
    wavs = torch.stack(waveforms(4000))
    assert max(differences(encoder, model, wavs, relative_differences)) <= TOLERANCE
    with torch.no_grad():
        model.encoder.transformer.layers[0].feed_forward.output_dense.bias[0] += 0.5
    assert max(differences(encoder, model, wavs, relative_differences)) > 100 * TOLERANCE


def test_a_state_dict_does_not_say_its_shape_so_it_must_be_named(tmp_path):
    write(tmp_path / "ours.pt", "torchaudio", random_encoder(SHAPES["hubert_base"], seed=3))
    with pytest.raises(UserError, match="torchaudio state dict, which does not say its shape. Name it"):
        read(tmp_path / "ours.pt")
    with pytest.raises(UserError, match="must have shape|missing keys"):
        read(tmp_path / "ours.pt", shape=SHAPES["wav2vec2_large_960"])
