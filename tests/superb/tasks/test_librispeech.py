"""Utterances that s3prl's asr would silently lose are an error; files are read as by s3prl's own code."""

import csv

import numpy as np
import pytest
import soundfile

from s3prl_pruned import compat
from s3prl_pruned.config import UserError
from s3prl_pruned.superb.tasks.librispeech import (
    LETTERS,
    read_split,
    refuse_lost_utterances,
    write_bucket_lengths,
    write_dictionary,
)  # fmt: skip
from tests.synthetic_corpus import make_corpus


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return make_corpus(tmp_path / "corpus", {"train": 5, "test": 3}, suffix=".ogg")


def s3prl_dataset(corpus, tmp_path, *, bucket_size):
    """s3prl's own dataset on the files that we wrote."""
    compat.apply()
    from s3prl.downstream.asr.dataset import SequenceDataset
    from s3prl.downstream.asr.dictionary import Dictionary

    write_dictionary(tmp_path / "char.dict")
    dictionary = Dictionary.load(str(tmp_path / "char.dict"))
    lengths = write_bucket_lengths(corpus, [read_split(corpus, "test")])
    return SequenceDataset("test", bucket_size, dictionary, str(corpus), str(lengths), test=["test"])


def test_s3prl_reads_every_utterance_by_falling_length_with_its_letters(corpus, tmp_path):
    dataset = s3prl_dataset(corpus, tmp_path, bucket_size=1)
    assert len(dataset) == 3
    wavs, labels, names = dataset[0]
    assert names == ["2-7-0002"] and wavs[0].shape == (9600,)
    dictionary = dataset.dictionary
    assert dictionary.string(labels[0]) == "O N E | T W O | D O N ' T |"
    assert len(dictionary) == 4 + len(LETTERS)  # nothing was added: the output layer fits
    assert dictionary.unk() not in labels[0]


def test_the_utterance_that_s3prl_loses_is_announced(corpus, tmp_path):
    dataset = s3prl_dataset(corpus, tmp_path, bucket_size=2)
    assert sum(len(dataset[i][2]) for i in range(len(dataset))) == 2  # of 3: s3prl loses one
    with pytest.raises(UserError, match="eval_batch_size 2 leaves one of 3 utterances .*eval_batch_size=1"):
        refuse_lost_utterances(3, 2, "test-clean")
    for size in (1, 3, 4):
        refuse_lost_utterances(3, size, "test-clean")


def test_the_dictionary_holds_the_letters_of_librispeech(tmp_path):
    write_dictionary(tmp_path / "char.dict")
    symbols = [line.split()[0] for line in (tmp_path / "char.dict").read_text().splitlines()]
    assert symbols[0] == "|" and sorted(symbols[1:]) == sorted("'ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def test_lengths_are_cached_by_the_content_of_the_corpus(corpus, tmp_path):
    first = write_bucket_lengths(corpus, [read_split(corpus, "train")])
    with (first / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["file_path"], int(row["length"])) for row in rows] == [
        (f"train/1/7/1-7-{i:04d}.ogg", 8000 + 800 * i) for i in range(5)
    ]
    (first / "train.csv").write_text("kept")
    assert write_bucket_lengths(corpus, [read_split(corpus, "train")]) == first
    assert (first / "train.csv").read_text() == "kept"

    (corpus / "train/1/7/1-7-0004.ogg").unlink()
    listing = corpus / "train/1/7/1-7.trans.txt"
    listing.write_text("".join(listing.read_text().splitlines(keepends=True)[:4]))
    again = write_bucket_lengths(corpus, [read_split(corpus, "train")])
    assert again != first and len((again / "train.csv").read_text().splitlines()) == 1 + 4


def append(text):
    return lambda folder: (folder / "1-7.trans.txt").open("a").write(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (append("1-7-0009 ONE\n"), "1 have a transcript but no audio file .first 1-7-0009"),
        (append("1-7-0000 ONE\n"), "the id 1-7-0000 must occur once in train, but occurs twice"),
        (append("1-7-0009 ROOM 5\n"), "1-7-0009's holds '5'. Write numbers and signs out as words"),
        (append("1-7-0009\n"), "1-7-0009's is empty"),
        (lambda f: soundfile.write(f / "1-7-0009.flac", np.zeros(8000), 16000), "1 have no line in .* .first 1-7-0009"),
        (lambda f: soundfile.write(f / "1-7-0000.wav", np.zeros(8000), 16000),
         "1 have two audio files .first 1-7-0000"),
        (lambda f: (f / "1-7.trans.txt").rename(f / "text.trans.txt"), "must be named 1-7.trans.txt"),
    ],
)  # fmt: skip
def test_an_utterance_that_could_not_count_is_an_error(corpus, damage, message):
    damage(corpus / "train/1/7")
    with pytest.raises(UserError, match=message):
        read_split(corpus, "train")


def test_a_missing_split_is_reported_with_the_existing_ones(corpus):
    with pytest.raises(UserError, match="must hold the folder 'train-clean-100' .* but holds test, train"):
        read_split(corpus, "train-clean-100")
    (corpus / "empty").mkdir()
    with pytest.raises(UserError, match="holds no such file"):
        read_split(corpus, "empty")


@pytest.mark.parametrize(
    ("shape", "rate", "message"),
    [((8000, 2), 16000, "has 16000 Hz and 2 channel"), ((8000,), 8000, "has 8000 Hz and 1 channel")],
)
def test_audio_that_s3prl_would_misread_is_an_error(corpus, tmp_path, shape, rate, message):
    soundfile.write(corpus / "train/1/7/1-7-0000.ogg", np.zeros(shape), rate)
    with pytest.raises(UserError, match=message):
        write_bucket_lengths(corpus, [read_split(corpus, "train")])
