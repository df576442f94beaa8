"""A file is read to its true end, or refused, whatever its header says of its length."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch

from benchmarks.synthetic_audio import synthetic_noise, synthetic_tone
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import num_samples, read_waveform

RATE, LENGTH = 16_000, 32_000
PCM = (np.random.default_rng(0).standard_normal(LENGTH) * 3000).astype(np.int16)
TRUTH = PCM.astype(np.float32) / 2**15
NO_LENGTH = {  # size of the file, size of the samples
    "nothing": (0, 0),
    "ones": (0xFFFFFFFF, 0xFFFFFFFF),
    "SoX": (0x7FFFF024, 0x7FFFF000),
    "2^31 - 1": (0x7FFFFFFF, 0x7FFFFFDB),
    "2^31": (0x80000024, 0x80000000),
    "only the whole": (64_036, 0),
    "a header alone": (36, 0),
}


BYTES = PCM.astype("<i2").tobytes()


def wav(riff, data, *, samples=BYTES, before=b"", after=b""):
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    size = struct.pack("<I", data)
    return b"RIFF" + struct.pack("<I", riff) + b"WAVE" + before + fmt + b"data" + size + samples + after


def rf64(data):
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, data and data + 72, data, 0, 0)
    return b"RF64" + wav(0xFFFFFFFF, 0xFFFFFFFF, before=sizes)[4:]


def au(size):
    return b".snd" + struct.pack(">IIIIII", 28, size, 3, RATE, 1, 0) + PCM.astype(">i2").tobytes()


def aiff(whole, frames, size):
    written = io.BytesIO()
    soundfile.write(written, PCM, RATE, format="AIFF")
    data = bytearray(written.getvalue())
    data[4:8] = struct.pack(">I", whole)
    for chunk, offset, value in ((b"COMM", 10, frames), (b"SSND", 4, size)):
        at = data.find(chunk) + offset
        data[at : at + 4] = struct.pack(">I", value)
    return bytes(data)


def flac(total, samples=PCM):
    """A FLAC with `total` in the 36 bits of STREAMINFO that hold the number of samples."""
    written = io.BytesIO()
    soundfile.write(written, samples, RATE, format="FLAC")
    data = bytearray(written.getvalue())
    data[21] = data[21] & 0xF0 | total >> 32
    data[22:26] = struct.pack(">I", total & 0xFFFFFFFF)
    return bytes(data)


def written(kind, samples=PCM, **how):
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=kind, **how)
    return file.getvalue()


def caf(size, cut=0):
    data = written("CAF", subtype="PCM_16")
    at = data.find(b"data") + 4
    return data[:at] + struct.pack(">q", size) + data[at + 8 : len(data) - cut]


def save(path, data):
    path.write_bytes(data)
    return path


def refused(path, by=read_waveform):
    with pytest.raises(UserError) as caught:
        by(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


WHOLE = {
    **{f"a {name}.wav": wav(*sizes) for name, sizes in NO_LENGTH.items()},
    "list.wav": wav(0, 0, before=b"LIST" + struct.pack("<I", 6) + b"INFOxx"),
    "rf64.wav": rf64(0),
    "known.rf64.wav": rf64(2 * LENGTH),
    **{f"{size:x}.au": au(size) for size in (0, 0xFFFFFFFF, 0x7FFFF000, 2 * LENGTH)},
    **{
        f"{whole:x}.aiff": aiff(whole, frames, size)
        for whole, frames, size in ((0, 0, 0), (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF), (0x7F000034, 0, 0x7F000008))
    },
    "open.caf": caf(-1),
    "known.caf": caf(4 + 2 * LENGTH),
    "known.w64": written("W64", subtype="PCM_16"),
    "known.sph": written("NIST", subtype="PCM_16"),
    "open.flac": flac(0),
    "known.flac": flac(LENGTH),
}


@pytest.mark.parametrize("name", WHOLE)
def test_every_sample_is_read_whatever_length_the_header_gives(tmp_path, name):
    path = save(tmp_path / name, WHOLE[name])
    assert num_samples(path) == LENGTH
    np.testing.assert_array_equal(read_waveform(path).numpy(), TRUTH)
    archive = save(tmp_path / "archive.tar", b"x" * 7 + WHOLE[name] + b"y" * 9)
    np.testing.assert_array_equal(read_waveform(archive, span=(7, len(WHOLE[name]))).numpy(), TRUTH)
    piece = read_waveform(path, seconds=(1.5, 0.25)).numpy()
    np.testing.assert_array_equal(piece, TRUTH[24_000:28_000])


def test_a_wav_that_has_no_samples_is_refused_though_another_chunk_follows(tmp_path):
    chunk = b"LIST" + struct.pack("<I", 40) + b"INFO" + bytes(36)
    assert "holds 0 samples" in refused(save(tmp_path / "a.wav", wav(84, 0, samples=b"", after=chunk)))
    assert "holds 0 samples" in refused(save(tmp_path / "b.wav", wav(36, 0, samples=b"")))


CUT = {
    "a.wav": wav(36 + 2 * LENGTH, 2 * LENGTH),
    "rf64.wav": rf64(2 * LENGTH),
    "a.au": au(2 * LENGTH),
    "a.aiff": aiff(46 + 2 * LENGTH, LENGTH, 2 * LENGTH + 8),
    "a.w64": written("W64", subtype="PCM_16"),
    "a.sph": written("NIST", subtype="PCM_16"),
    "two_channels.sph": written("NIST", np.stack([PCM, PCM], 1), subtype="PCM_16"),
    "a_byte.sph": written("NIST", subtype="ULAW"),
}


@pytest.mark.parametrize("name", CUT)
def test_a_cut_file_whose_length_is_known_is_refused(tmp_path, name):
    assert num_samples(save(tmp_path / name, CUT[name])) == LENGTH
    assert "is truncated" in refused(save(tmp_path / name, CUT[name][: len(CUT[name]) // 2]))


def test_a_nist_file_without_a_count_is_read_to_its_end(tmp_path):
    data = written("NIST", subtype="PCM_16")
    at = data.find(b"sample_count")
    line = data[at : data.find(b"\n", at)]
    path = save(tmp_path / "a.sph", data.replace(line, b"other_field -i 0".ljust(len(line))))
    assert num_samples(path) == len(read_waveform(path)) == LENGTH


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("by", [read_waveform, num_samples])
def test_an_ogg_file_of_several_streams_is_refused(tmp_path, codec, by):
    """Such as two recordings joined by `cat`: libsndfile reads only the first, without an error."""
    first, second = (written("OGG", samples, subtype=codec) for samples in (PCM, PCM[:20_000]))
    assert num_samples(save(tmp_path / "one.ogg", first)) == LENGTH
    for data in (first + second, first + first):
        assert "must be one Ogg stream, but another follows" in refused(save(tmp_path / "two.ogg", data), by)


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_an_mp3_without_a_header_frame_is_read_to_its_end(tmp_path, mode, rate):
    """With a soft beginning and a loud end, the first frame's bit rate suggests a quarter of the length."""
    samples = np.concatenate(
        [synthetic_tone(2 * rate, frequency=300, rate=rate) / 10, synthetic_noise(2 * rate, seed=0)]
    )
    whole = tmp_path / "whole.mp3"
    soundfile.write(whole, samples, rate, format="MP3", bitrate_mode=mode, compression_level=0.5)
    data = whole.read_bytes()
    assert max(data.find(b"Xing"), data.find(b"Info")) > 0
    second = data.find(data[:2], 100)  # the first frame holds only the header
    tagged = b"ID3\x04\0\0\0\0\x02\0" + bytes(256) + data[second:]
    for bare in (save(tmp_path / "bare.mp3", data[second:]), save(tmp_path / "tagged.mp3", tagged)):
        found, expected = read_waveform(bare).numpy(), read_waveform(whole).numpy()
        assert len(found) == num_samples(bare)
        delay = len(found) - len(expected)  # the header also gives the encoder's delay and padding
        assert 0 <= delay * rate / 16_000 <= 2 * 1152 + 576
        begins = [int(np.flatnonzero(np.abs(wav) > 0.5 * np.abs(wav).max())[0]) for wav in (found, expected)]
        assert abs(begins[0] - begins[1]) <= delay
        tail = [np.sqrt((wav[len(wav) // 2 + 2000 :] ** 2).mean()) for wav in (found, expected)]
        assert tail[0] == pytest.approx(tail[1], rel=0.1)


@pytest.mark.parametrize("by", [read_waveform, num_samples])
@pytest.mark.parametrize("kind", ["flac", "mp3"])
def test_memory_is_used_for_existing_samples_and_not_for_what_a_header_claims(tmp_path, by, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "flac":
        save(path, flac(2**36 - 1))
    else:
        soundfile.write(path, TRUTH, RATE, format="MP3")
        data = bytearray(path.read_bytes())
        at = max(data.find(b"Xing"), data.find(b"Info"))
        data[at + 8 : at + 12] = b"\xff" * 4
        save(path, data)
    tracemalloc.start()
    try:
        assert "is truncated" in refused(path, by)
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


def test_a_flac_of_long_silence_is_trusted_once_it_is_decoded(tmp_path):
    path = save(tmp_path / "a.flac", flac(10**6, np.zeros(10**6, np.int16)))
    assert 64 * path.stat().st_size < 10**6
    assert num_samples(path) == len(read_waveform(path)) == 10**6


def test_a_piece_that_ends_a_little_after_its_file_is_filled_as_lhotse_does(tmp_path):
    lhotse = pytest.importorskip("lhotse")
    path = save(tmp_path / "a.wav", wav(36 + 2 * LENGTH, 2 * LENGTH))
    recording = lhotse.Recording.from_file(path)
    recording.num_samples, recording.duration = LENGTH + 300, (LENGTH + 300) / RATE
    cut = lhotse.MonoCut(id="a", start=1.0, duration=1 + 300 / RATE, channel=0, recording=recording)
    found = read_waveform(path, seconds=(cut.start, cut.duration))
    assert torch.equal(found, torch.from_numpy(cut.load_audio()[0]))
    late = (1.0, 1 + 500 / RATE)  # 31 ms
    with pytest.raises(UserError, match=r"truncated \(the piece ends at 2.031 s, the file at 2.000 s\)"):
        read_waveform(path, seconds=late)
    with pytest.raises(UserError, match="the file before it begins"):
        read_waveform(path, seconds=(3.0, 0.01))


@pytest.mark.parametrize("channels", [(1, -1), (1, -0.98), (1, -1, 0.001)])
def test_if_channels_cancel_out_the_loudest_is_used_and_the_file_is_named(tmp_path, caplog, channels):
    samples = np.stack([factor * TRUTH for factor in channels], axis=1)
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    np.testing.assert_array_equal(read_waveform(path).numpy(), TRUTH)
    read_waveform(path)
    assert caplog.text.count(f"{path}: the channels cancel out") == 1


@pytest.mark.parametrize("channels", [(1, 0), (0, 0, 0, 1), (1, 1), (1, -0.5), (0, 0)])
def test_other_channels_are_averaged(tmp_path, channels):
    samples = np.stack([factor * TRUTH for factor in channels], axis=1)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_waveform(tmp_path / "a.wav").numpy(), samples.mean(axis=1), atol=1e-7)


def test_a_file_whose_name_is_not_utf_8_is_read(tmp_path):
    path = tmp_path / "caf\udce9.flac"
    try:
        save(path, flac(LENGTH))
    except OSError:
        pytest.skip("this disk takes no such name")
    assert num_samples(path) == len(read_waveform(path)) == LENGTH


def test_a_path_that_is_not_a_file_is_refused(tmp_path):
    (tmp_path / "folder.wav").mkdir()
    for name in ("folder.wav", "a\0b.wav"):
        assert "no such audio file" in refused(tmp_path / name)
