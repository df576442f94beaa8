"""Reading gives the audio that was written, at 16 kHz, or one error that names the file."""

import numpy as np
import pytest
import soundfile
import torch

from benchmarks.synthetic_audio import synthetic_noise, synthetic_tone
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import (
    collate,
    crop_start,
    normalize_waveform,
    num_samples,
    read_waveform,
    resample,
)

FORMATS = {
    "flac": {},
    "wav": {},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3"},
}


def write(path, samples, rate=16_000, **options):
    soundfile.write(path, samples, rate, **options)
    return path


@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_a_lossless_file_is_read_bit_for_bit(tmp_path, suffix):
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, 1000).astype(np.int16)
    wav = read_waveform(write(tmp_path / f"a.{suffix}", samples))
    assert wav.dtype == torch.float32
    assert np.array_equal(wav.numpy(), samples.astype(np.float32) / 2**15)


@pytest.mark.parametrize("suffix", ["ogg", "opus", "mp3"])
def test_a_lossy_file_sounds_as_written(tmp_path, suffix):
    tone = synthetic_tone(16_000, frequency=440)
    path = write(tmp_path / f"a.{suffix}", tone, **FORMATS[suffix])
    wav = read_waveform(path).numpy()
    assert len(wav) == num_samples(path) == 16_000
    assert np.corrcoef(wav, tone)[0, 1] > 0.99


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000])
def test_a_sine_at_another_rate_is_the_same_sine_at_16_khz(tmp_path, rate):
    path = write(tmp_path / "a.wav", synthetic_tone(rate // 2, frequency=440, rate=rate), rate, subtype="FLOAT")
    wav = read_waveform(path).numpy()
    assert len(wav) == num_samples(path)
    assert abs(len(wav) - 8000) <= 1
    middle = slice(400, len(wav) - 400)  # the filter sees silence beyond either end
    analytic = synthetic_tone(len(wav), frequency=440)
    assert np.abs(wav - analytic)[middle].max() < 2e-3
    assert np.abs(wav - synthetic_tone(len(wav), frequency=441))[middle].max() > 1e-2


def test_frequencies_above_8_khz_are_not_aliased():
    tone = synthetic_tone(44_100, frequency=11_000, rate=44_100)
    assert np.abs(resample(tone, 44_100)[400:-400]).max() < 1e-2 * np.abs(tone).max()


def test_stereo_is_averaged(tmp_path):
    left, right = synthetic_noise(1000, seed=1), synthetic_noise(1000, seed=2)
    path = write(tmp_path / "a.wav", np.stack([left, right], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(read_waveform(path).numpy(), (left + right) / 2, atol=1e-7)


def refused(path, *, by=read_waveform):
    with pytest.raises(UserError) as caught:
        by(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("fraction", [0.97, 0.5, 0.02])
def test_a_truncated_file_is_refused(tmp_path, suffix, fraction):
    path = write(tmp_path / f"a.{suffix}", synthetic_noise(32_000, seed=0), **FORMATS[suffix])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(fraction * len(whole))])
    assert "truncated" in refused(path)


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
def test_an_ogg_stream_cut_between_two_pages_is_refused(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", synthetic_noise(64_000, seed=0), **FORMATS[suffix])
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rfind(b"OggS")])
    assert soundfile.info(path).frames > 0, "libsndfile itself takes it for a shorter file"
    assert "truncated (its last Ogg page is not a stream's end)" in refused(path)


def test_a_wav_whose_writer_did_not_know_its_length_is_read(tmp_path):
    path = write(tmp_path / "a.wav", synthetic_noise(1000, seed=0))
    whole = bytearray(path.read_bytes())
    whole[4:8] = b"\xff\xff\xff\xff"
    path.write_bytes(whole)
    assert len(read_waveform(path)) == 1000


@pytest.mark.parametrize("by", [read_waveform, num_samples])
def test_an_empty_file_is_refused(tmp_path, by):
    (tmp_path / "a.flac").touch()
    assert "is empty (0 bytes)" in refused(tmp_path / "a.flac", by=by)


@pytest.mark.parametrize("by", [read_waveform, num_samples])
def test_a_file_that_is_not_audio_is_refused(tmp_path, by):
    (tmp_path / "a.flac").write_text("this is not audio")
    assert "cannot be decoded" in refused(tmp_path / "a.flac", by=by)
    assert "no such audio file" in refused(tmp_path / "b.flac", by=by)


def test_a_file_without_samples_is_refused(tmp_path):
    assert "holds 0 samples" in refused(write(tmp_path / "a.wav", np.zeros(0, np.float32)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_refused_and_counted(tmp_path, value):
    samples = synthetic_noise(1000, seed=0)
    samples[[3, 700]] = value
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    assert "2 of 1000 are NaN or infinite" in refused(path)


def test_one_frame_is_the_shortest_utterance(tmp_path):
    assert len(read_waveform(write(tmp_path / "a.wav", synthetic_noise(400, seed=0)))) == 400
    path = write(tmp_path / "b.wav", synthetic_noise(399, seed=0))
    assert "at least one frame (400 samples at 16 kHz, 25 ms), but has 399 samples" in refused(path)
    # 500 samples at 44.1 kHz are 11 ms
    path = write(tmp_path / "c.wav", synthetic_noise(500, seed=0), 44_100)
    assert "but has 182 samples" in refused(path)


def crop(wav, max_samples, generator):
    start = crop_start(len(wav), max_samples, generator)
    return wav[start : start + max_samples]


def test_a_crop_is_part_of_the_utterance_and_every_part_can_be_drawn():
    wav = torch.arange(10.0)
    generator = torch.Generator().manual_seed(0)
    crops = [crop(wav, 8, generator) for _ in range(50)]
    assert {int(piece[0]) for piece in crops} == {0, 1, 2}
    assert all(torch.equal(piece, wav[int(piece[0]) :][:8]) for piece in crops)


def test_an_utterance_that_fits_is_not_cropped():
    wav = torch.arange(10.0)
    for max_samples in (10, 11):
        assert torch.equal(crop(wav, max_samples, torch.Generator()), wav)


def test_collate_pads_with_zeros_and_keeps_lengths():
    wavs, lengths = collate([torch.ones(3), torch.ones(5)])
    assert torch.equal(wavs, torch.tensor([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 1]]))
    assert lengths.dtype == torch.int64 and lengths.tolist() == [3, 5]


def test_a_normalized_waveform_has_zero_mean_and_unit_variance():
    wav = 3 + 0.2 * torch.randn(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (wav - wav.mean()) / (wav.var(unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(normalize_waveform(wav), expected)
    torch.testing.assert_close(normalize_waveform(torch.zeros(400)), torch.zeros(400))
