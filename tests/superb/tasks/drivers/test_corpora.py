"""A corpus that s3prl could not read, or would read wrongly, is one clear error before anything runs."""

import argparse
import copy
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from s3prl_pruned import compat
from s3prl_pruned.compat import experts
from s3prl_pruned.config import UserError, load_yaml
from s3prl_pruned.superb.catalogue import TASKS
from s3prl_pruned.superb.running.make_run import SETTINGS
from s3prl_pruned.superb.tasks import corpora as helpers
from s3prl_pruned.superb.tasks import known_files
from s3prl_pruned.superb.tasks.drivers import driver_of
from tests.superb_corpora import (
    DEV_SPEAKER,
    TRAIN_SPEAKER,
    make_fluent_commands,
    make_iemocap,
    make_speech_commands,
    make_voxceleb1,
    write_noise,
)  # fmt: skip

MAKERS = {"ks": make_speech_commands, "sid": make_voxceleb1, "ic": make_fluent_commands, "er": make_iemocap}
TRAIN, TEST = "speech_commands_v0.01", "speech_commands_test_set_v0.01"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    return {task: make(folder / task) for task, make in MAKERS.items()}


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Call a driver's prepare on a corpus; returns the settings that s3prl gets, and the splits."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(task, corpus, *, s3prl_root=None, **datarc):
        config = copy.deepcopy(load_yaml(SETTINGS / f"{task}.yaml"))
        config["downstream_expert"]["datarc"] |= {"batch_size": 4} | datarc
        args = argparse.Namespace(mode="all", evaluate_split="test", downstream_variant=None, expdir="unused")
        read = driver_of(TASKS[task]).prepare(args, config, corpus=corpus, s3prl_root=s3prl_root)
        return config["downstream_expert"], {split.key: split for split in read}

    return call


@pytest.fixture
def copied(corpora, tmp_path):
    """A copy of a corpus, to be damaged."""
    return lambda task: shutil.copytree(corpora[task], tmp_path / "corpus")


def rewrite(name, old, new):
    return lambda root: (root / name).write_text((root / name).read_text().replace(old, new))


def remove(name):
    return lambda root: shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()


def noise(name, **how):
    return lambda root: write_noise(root / name, np.random.default_rng(0), **how)


def stereo(name):
    return lambda root: soundfile.write(root / name, np.zeros((8000, 2)), 16000)


@pytest.mark.parametrize(
    ("task", "damage", "message"),
    [
        ("ks", remove(TEST), f"corpus: must be the folder of Speech Commands .* but lacks {TEST}/ .there: {TRAIN}"),
        ("ks", remove(f"{TRAIN}/stop"), f"{TRAIN}: must be .*, but lacks stop/"),
        ("ks", remove(f"{TRAIN}/_background_noise_/pink_noise.wav"), "must hold recordings of noise"),
        ("ks", noise(f"{TRAIN}/_background_noise_/hum.wav", seconds=0.5),
         "hum.wav: must be one second or longer, but has 0.50 s"),
        ("ks", noise(f"{TEST}/bed/a.wav"), "must be the twelve classes, but it holds bed"),
        ("sid", remove("test/wav"), "corpus: must be the folder of VoxCeleb1, but lacks test/wav/"),
        ("sid", remove("iden_split.txt"),
         "must hold VoxCeleb1's list .* Get it from https.*iden_split.txt, or .* --s3prl-root"),
        ("sid", remove("dev/wav/id10002/bbbbbbbbbbb"), "but 1 are missing .first id10002/bbbbbbbbbbb/00001.wav"),
        ("sid", rewrite("iden_split.txt", "id10002", "id12002"),
         "line 4: must be .*id<10001 to 11251>.* but is '1 id12002/"),
        ("sid", rewrite("iden_split.txt", "2 id", "1 id"), "must hold files of the dev split, but holds none"),
        ("sid", stereo("dev/wav/id10001/aaaaaaaaaaa/00001.wav"), "must be 16000 Hz mono .* has 16000 Hz and 2 channel"),
        ("ic", remove("data/valid_data.csv"),
         "Fluent Speech Commands, but lacks data/valid_data.csv .there: data, wavs"),
        ("ic", remove("wavs/speakers/a1/test-0.wav"),
         "every file of data/test_data.csv, but 1 are missing .first wavs/speakers/a1"),
        ("ic", rewrite("data/test_data.csv", "bring", "fetch"),
         "every action must be in data/train_data.csv too, but 'fetch'"),
        ("ic", rewrite("data/train_data.csv", "location", "place"),
         "every line must have path, action, object, location, but it has"),
        ("ic", noise("wavs/speakers/a1/train-0.wav", sample_rate=8000), "must be 16000 Hz mono .* has 8000 Hz"),
        ("er", remove("Session4"), "IEMOCAP, but lacks Session4/sentences/wav/, Session4/dialog/EmoEvaluation/"),
        ("er", remove("Session2/sentences/wav/Ses02F_impro01"), None),
        ("er", remove("Session2/dialog/EmoEvaluation"), "but lacks Session2/dialog/EmoEvaluation/"),
        ("er", noise("Session3/sentences/wav/Ses03F_impro01/Ses03F_impro01_F000.wav", sample_rate=8000), "has 8000 Hz"),
    ],
)  # fmt: skip
def test_a_corpus_in_the_wrong_layout_is_named_with_what_is_missing(prepare, copied, task, damage, message):
    corpus = copied(task)
    damage(corpus)
    if message is None:  # s3prl's own preparation leaves out annotations without audio as well
        assert prepare(task, corpus)[1]["Session2"].num_utterances == 5
        return
    with pytest.raises(UserError, match=message):
        prepare(task, corpus)


def test_speech_commands_are_split_by_speaker_with_noise_in_both(prepare, corpora):
    settings, read = prepare("ks", corpora["ks"])
    assert (settings["datarc"]["speech_commands_root"], settings["datarc"]["speech_commands_test_root"]) == (
        str(corpora["ks"] / TRAIN), str(corpora["ks"] / TEST),
    )  # fmt: skip
    assert {key: split.num_utterances for key, split in read.items()} == {"train": 13, "dev": 13, "test": 12}
    compat.apply()
    train, dev = experts.import_expert("speech_commands").split_dataset(corpora["ks"] / TRAIN)
    assert {path.name[:8] for _, path in train} == {TRAIN_SPEAKER} and {path.name[:8] for _, path in dev} == {
        DEV_SPEAKER
    }


def test_the_two_folders_of_speech_commands_may_be_anywhere(prepare, corpora):
    roots = {"speech_commands_root": str(corpora["ks"] / TRAIN), "speech_commands_test_root": str(corpora["ks"] / TEST)}
    settings, _ = prepare("ks", corpora["ks"] / TRAIN, **roots)
    assert {key: settings["datarc"][key] for key in roots} == roots


def test_a_batch_larger_than_the_training_set_is_refused_because_s3prl_would_never_end(prepare, corpora):
    with pytest.raises(UserError, match="batch_size: must be at most the 13 utterances of the training set, but is 32"):
        prepare("ks", corpora["ks"], batch_size=32)


def test_each_voxceleb1_has_its_own_lists_outside_site_packages(prepare, corpora, copied):
    """s3prl caches them beside its code, so the second corpus would get the first one's lists."""
    first, _ = prepare("sid", corpora["sid"])
    other = copied("sid")
    second, _ = prepare("sid", other)
    compat.apply()
    module = experts.import_expert("voxceleb1")
    for settings, corpus in ((first, corpora["sid"]), (second, other)):
        experts.keep_voxceleb1_lists_in(Path(settings["datarc"]["meta_data"]).parent)
        dataset = module.SpeakerClassifiDataset("test", corpus, settings["datarc"]["meta_data"])
        assert dataset.dataset == [
            f"{corpus}/{top}/wav/id{speaker}/ccccccccccc/00001.wav"
            for speaker, top in ((10001, "dev"), (10002, "dev"), (11251, "dev"), (10270, "test"))
        ]
        assert dataset.label == [0, 1, 1250, 269]
    assert not (Path(module.__file__).parent / ".cache").exists()


@pytest.fixture
def stats(monkeypatch):
    """How often the size or existence of audio files was checked, by file."""
    asked, stat = Counter(), Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **how: asked.update([path.suffix]) or stat(path, **how))
    return asked


@pytest.mark.parametrize("task", ["sid", "sv"])
def test_a_second_start_checks_only_a_few_files_and_the_folders_of_speakers(task, prepare, copied, stats, monkeypatch):
    corpus = copied("sid")
    files = sorted(corpus.glob("*/wav/*/*/*.wav"))
    for path in files:  # long enough for both tasks
        write_noise(path, np.random.default_rng(5), seconds=1.1)
    tested = [path.relative_to(corpus / "test/wav").as_posix() for path in files if "/test/wav/" in str(path)]
    (corpus / "veri_test.txt").write_text(f"1 {tested[0]} {tested[1]}\n0 {tested[0]} {tested[2]}\n")
    monkeypatch.setattr(known_files, "SAMPLED", 3)
    settings = {"vad_config": {"min_sec": 1000}} if task == "sv" else {}
    first = prepare(task, corpus, **settings)
    assert stats[".wav"] >= len(files)
    stats.clear()
    assert prepare(task, corpus, **settings) == first
    assert 0 < stats[".wav"] <= 4
    # One of the few has another size: all are checked again.
    write_noise(files[0], np.random.default_rng(6), seconds=1.2)
    changed = prepare(task, corpus, **settings)[1]
    assert changed["train"].sha256 != first[1]["train"].sha256
    # A speaker's folder changed, but none of the few files.
    shutil.rmtree(files[-1].parents[1])
    with pytest.raises(UserError, match="1 are missing|3 are missing|must hold"):
        prepare(task, corpus, **settings)


def test_many_files_are_checked_in_threads_with_the_same_outcome(prepare, copied, monkeypatch, capsys, tmp_path):
    corpus = copied("sid")
    _, one_by_one = prepare("sid", corpus)
    monkeypatch.setattr(helpers, "MANY", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    _, together = prepare("sid", corpus)
    assert together == one_by_one
    assert "files of iden_split.txt" in capsys.readouterr().err  # a progress bar for each kind of check
    write_noise(corpus / "dev/wav/id10002/bbbbbbbbbbb/00001.wav", np.random.default_rng(1), sample_rate=8000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "third"))
    with pytest.raises(UserError, match="bbbbbbbbbbb/00001.wav: must be 16000 Hz mono"):
        prepare("sid", corpus)


def test_the_list_of_an_s3prl_checkout_is_used(prepare, copied, tmp_path):
    corpus = copied("sid")
    folder = tmp_path / "checkout" / "downstream" / "voxceleb1"
    folder.mkdir(parents=True)
    lines = (corpus / "iden_split.txt").read_text().splitlines(keepends=True)
    (folder / "veri_test_class.txt").write_text("".join(lines[:6]))
    _, read = prepare("sid", corpus, s3prl_root=tmp_path / "checkout")
    assert read["train"].num_utterances == 2


def test_the_same_name_with_other_labels_is_another_corpus(prepare, copied):
    corpus = copied("ic")
    _, before = prepare("ic", corpus)
    rewrite("data/test_data.csv", "increase,volume", "bring,volume")(corpus)
    _, after = prepare("ic", corpus)
    assert before["test"].sha256 != after["test"].sha256 and before["train"].sha256 == after["train"].sha256


def test_an_audio_file_is_opened_once_per_corpus(prepare, corpora, monkeypatch):
    prepare("ic", corpora["ic"])
    monkeypatch.setattr(soundfile, "info", lambda path: pytest.fail(f"{path} is opened again"))
    prepare("ic", corpora["ic"])
