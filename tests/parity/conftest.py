"""Fixtures for the comparisons with live references."""

import pytest
import torch
from torch.nn.functional import layer_norm

from s3prl_pruned import compat


@pytest.fixture(autouse=True, scope="session")
def s3prl_on_todays_stack():
    """s3prl and transformers import torchaudio, which needs `compat.torchaudio_extension` with a CPU build of torch."""
    compat.apply()


@pytest.fixture
def encode():
    """Our hidden states of a list of waveforms, prepared as by s3prl's expert."""

    @torch.no_grad()
    def states(encoder, wavs):
        if encoder.config.normalize_waveform:
            wavs = [layer_norm(wav, wav.shape) for wav in wavs]
        lengths = torch.tensor([len(wav) for wav in wavs]) if len(wavs) > 1 else None
        return encoder(torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True), lengths).hidden_states

    return states


def waveforms(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [0.3 * torch.randn(length, generator=generator) + 0.05 for length in lengths]


@pytest.fixture(name="waveforms")
def _waveforms():
    """Random waveforms with these lengths: no speech."""
    return waveforms
