"""A corpus is listed completely and in a fixed order, or refused with the reason."""

import logging
import os

import numpy as np
import pytest
import soundfile

from benchmarks.synthetic_audio import synthetic_noise, write_synthetic_corpus
from s3prl_pruned.config import UserError
from s3prl_pruned.data.manifest import Utterance, scan_corpus
from s3prl_pruned.data.waveforms import read_waveform


def test_librispeech_layout_is_listed_in_order_of_id(tmp_path):
    paths = write_synthetic_corpus(tmp_path, split="dev-clean", lengths=(1000, 2000, 3000))
    assert scan_corpus(tmp_path) == [
        Utterance("dev-clean/100/1/100-1-0000", paths[0], 1000),
        Utterance("dev-clean/100/1/100-1-0002", paths[2], 3000),
        Utterance("dev-clean/101/1/101-1-0001", paths[1], 2000),
    ]


def test_any_folder_and_format_is_listed_with_the_lengths_that_are_read(tmp_path):
    options = {"ogg": {"format": "OGG"}, "opus": {"format": "OGG", "subtype": "OPUS"}}
    for suffix, rate in {"flac": 44_100, "WAV": 8000, "ogg": 22_050, "opus": 16_000, "mp3": 16_000}.items():
        path = tmp_path / f"in {suffix}" / f"a.b.{suffix}"
        path.parent.mkdir()
        soundfile.write(path, synthetic_noise(rate, seed=0)[: rate - 7], rate, **options.get(suffix, {}))
    (tmp_path / "notes.txt").write_text("no audio")
    (tmp_path / "._a.flac").write_text("no audio either")
    utterances = scan_corpus(tmp_path)
    assert [utterance.id for utterance in utterances] == sorted(
        ["in flac/a.b", "in WAV/a.b", "in ogg/a.b", "in opus/a.b", "in mp3/a.b"]
    )
    for utterance in utterances:
        assert utterance.num_samples == len(read_waveform(utterance.path))


def test_splits_choose_folders(tmp_path):
    for split in ("train-clean-100", "dev-clean", "test-clean"):
        write_synthetic_corpus(tmp_path, split=split, lengths=(1000,))
    ids = [utterance.id for utterance in scan_corpus(tmp_path, ["test-clean", "dev-clean", "dev-clean"])]
    assert ids == ["dev-clean/100/1/100-1-0000", "test-clean/100/1/100-1-0000"]
    with pytest.raises(UserError, match="no split 'dev'.*dev-clean, test-clean, train-clean-100"):
        scan_corpus(tmp_path, ["dev"])


def test_linked_folders_are_followed(tmp_path):
    write_synthetic_corpus(tmp_path / "elsewhere", lengths=(1000,))
    (tmp_path / "corpus").mkdir()
    os.symlink(tmp_path / "elsewhere" / "train-clean-100", tmp_path / "corpus" / "train")
    assert [utt.id for utt in scan_corpus(tmp_path / "corpus")] == ["train/100/1/100-1-0000"]


def test_a_folder_without_audio_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no audio")
    with pytest.raises(UserError, match=rf"{tmp_path}: a corpus must hold audio .*but 0 such files"):
        scan_corpus(tmp_path)
    with pytest.raises(UserError, match="nowhere: no such corpus folder"):
        scan_corpus(tmp_path / "nowhere")


def test_a_few_unreadable_files_are_left_out_and_named(tmp_path, caplog):
    paths = write_synthetic_corpus(tmp_path, lengths=(500,) * 10)
    paths[4].write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert len(scan_corpus(tmp_path, max_bad_fraction=0.1)) == 9
    assert "1 unreadable files are left out" in caplog.text and str(paths[4]) in caplog.text


def test_too_many_unreadable_files_are_an_error(tmp_path):
    paths = write_synthetic_corpus(tmp_path, lengths=(500,) * 10)
    for path in paths[:2]:
        path.write_bytes(b"")
    with pytest.raises(UserError, match="2 of 10 audio files cannot be read, and at most 10 %") as caught:
        scan_corpus(tmp_path, max_bad_fraction=0.1)
    assert str(paths[0]) in str(caught.value)


def test_the_same_utterance_in_two_formats_is_refused(tmp_path):
    for suffix in ("flac", "wav"):
        soundfile.write(tmp_path / f"a.{suffix}", np.zeros(500), 16_000)
    with pytest.raises(UserError, match="a.flac and a.wav: two files of one name"):
        scan_corpus(tmp_path)
