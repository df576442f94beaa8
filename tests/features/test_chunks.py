"""Long audio in chunks: exact with full context, close to the whole otherwise, with memory that does not grow."""

from dataclasses import replace

import pytest
import torch

import s3prl_pruned
from s3prl_pruned.config import UserError
from s3prl_pruned.features.chunks import Chunks
from s3prl_pruned.formats import registry
from s3prl_pruned.models.dummies import random_encoder, tiny_base, tiny_large, tiny_whisper
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.models.time_reduction import TimeReduction
from tests.tiny_run import tiny_wavlm

CONFIGS = {"base": tiny_base(), "large": tiny_large(normalize_waveform=True), "public kernels": tiny_wavlm()}


@pytest.fixture(params=sorted(CONFIGS), name="encoder")
def _encoder(request, tmp_path):
    registry.write(tmp_path / "export", "folder", random_encoder(CONFIGS[request.param], seed=1))
    return s3prl_pruned.load(tmp_path / "export")


def noise(seconds):
    return 0.1 * torch.randn(round(16_000 * seconds), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("seconds", [0.11, 0.5, 0.73, 1.0])
def test_with_full_context_the_states_equal_those_of_the_whole(encoder, seconds):
    wav = noise(seconds)
    whole, cut = encoder.extract(wav), encoder.extract(wav, chunks=Chunks(0.1, 100.0))
    assert cut.shape == whole.shape
    torch.testing.assert_close(cut, whole, atol=2e-5, rtol=0)
    torch.testing.assert_close(encoder.extract(wav, layer=1, chunks=Chunks(0.1, 100.0)), whole[1], atol=2e-5, rtol=0)


@pytest.mark.parametrize("chunk", [0.1, 0.105])
def test_merged_frames_are_those_of_the_whole(tmp_path, chunk):
    """Without attention, states depend on the frames under the positional convolution alone, so context suffices."""
    config = replace(CONFIGS["base"], time_reduction=TimeReduction(after=1, factor=3))
    spec = CompactSpec.dense(config)
    layers = tuple(replace(layer, attention=False, heads=()) for layer in spec.layers)
    encoder = random_encoder(config, seed=1, spec=replace(spec, layers=layers))
    registry.write(tmp_path / "export", "folder", encoder)
    loaded = s3prl_pruned.load(tmp_path / "export")
    whole, cut = loaded.extract(noise(0.73)), loaded.extract(noise(0.73), chunks=Chunks(chunk, 0.055))
    torch.testing.assert_close(cut, whole, atol=2e-5, rtol=0)


def test_an_encoder_with_windows_of_its_own_is_refused(tmp_path):
    registry.write(tmp_path / "export", "folder", random_encoder(tiny_whisper(), seed=1))
    with pytest.raises(UserError, match=r"left out for a whisper encoder: it cuts long audio into windows of 0.5 s"):
        s3prl_pruned.load(tmp_path / "export").extract(noise(0.1), chunks=Chunks(0.2))


def test_less_context_is_further_from_the_whole(encoder):
    wav = noise(1.0)
    whole = encoder.extract(wav)
    errors = [
        float((encoder.extract(wav, chunks=Chunks(0.2, context)) - whole).norm() / whole.norm())
        for context in (0.0, 0.4)
    ]
    assert errors[0] > errors[1] > 1e-4


def test_the_transformer_gets_only_a_chunk_and_its_context(encoder, monkeypatch):
    heard, forward = [], type(encoder.encoder).forward

    def listening(self, wavs, *args, **options):
        heard.append(options["features"].shape[1])
        return forward(self, wavs, *args, **options)

    monkeypatch.setattr(type(encoder.encoder), "forward", listening)
    found = encoder.extract(noise(4.0), layer=-1, chunks=Chunks(0.5, 0.25))
    frames = encoder.encoder.config.num_frames(64_000)
    hop = 64_000 / frames
    assert found.shape[0] == frames and max(heard) <= round(16_000 / hop) + 2 and len(heard) >= 8


@pytest.mark.parametrize(
    "wrong",
    [(0.0, 1.0), (-1.0, 1.0), (1.0, -0.1), (float("nan"), 1.0), (1.0, float("inf")), (1.0, 1e305), (1e305, 1.0)],
)
def test_lengths_out_of_range_are_one_clear_error(wrong):
    with pytest.raises(UserError, match="at least 0.1 s"):
        Chunks(*wrong)
