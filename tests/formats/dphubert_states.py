"""States of an encoder that was read, against those of DPHuBERT's authors' model."""

import torch

from tests.dphubert_checkpoints import Authors

LENGTHS = [(2000,), (2000, 1300, 700)]


def waveforms(lengths):
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(length, generator=generator) * 0.3 + 0.05 for length in lengths]


def saved(path, content):
    torch.save(content, path)
    return path


def found(encoder, wavs):
    """Published states in float64."""
    encoder = encoder.double()
    lengths = torch.tensor([len(wav) for wav in wavs])
    batch = torch.nn.utils.rnn.pad_sequence([wav.double() for wav in wavs], batch_first=True)
    with torch.no_grad():
        return encoder.states(encoder.encode_raw(batch, lengths if len(wavs) > 1 else None))


def worst(relative_differences, encoder, content, *, diarizen=False, masks=None):
    return max(
        max(relative_differences(found(encoder, wavs), Authors(content, masks).states(wavs, diarizen=diarizen)))
        for wavs in map(waveforms, LENGTHS)
    )
