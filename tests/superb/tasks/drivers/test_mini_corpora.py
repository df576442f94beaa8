"""PR, SF, SV, SD, QbE: a corpus that s3prl could not read, or would read wrongly, is one clear error.

The error comes before anything runs.
"""

import argparse
import copy
import shutil
import subprocess

import numpy as np
import pytest
import soundfile

from s3prl_pruned import compat
from s3prl_pruned.config import UserError, load_yaml
from s3prl_pruned.superb.catalogue import TASKS
from s3prl_pruned.superb.running.make_run import SETTINGS
from s3prl_pruned.superb.tasks.drivers import driver_of
from tests.superb_mini import make_corpora

NAMES = ("pr", "sf", "sv", "sd", "qbe")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    return make_corpora(tmp_path_factory.mktemp("corpora"), *NAMES)


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Call a driver's prepare on a corpus; returns the settings that s3prl gets, and the splits."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compat.apply()

    def call(task, corpus, *, s3prl_root=None, change=lambda expert: None, mode="all"):
        config = copy.deepcopy(load_yaml(SETTINGS / f"{task}.yaml"))
        change(config["downstream_expert"])
        args = argparse.Namespace(mode=mode, evaluate_split="test", downstream_variant=None, expdir="unused")
        read = driver_of(TASKS[task]).prepare(args, config, corpus=corpus, s3prl_root=s3prl_root)
        return config["downstream_expert"], {split.key: split for split in read}

    return call


def first(root, pattern):
    return sorted(root.glob(pattern))[0]


def rewrite(pattern, old, new):
    return lambda root: first(root, pattern).write_text(first(root, pattern).read_text().replace(old, new, 1))


def append(pattern, line):
    return lambda root: first(root, pattern).write_text(f"{first(root, pattern).read_text()}{line}\n")


def remove(pattern):
    def call(root):
        path = first(root, pattern)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return call


def audio(pattern, *, seconds=1.0, sample_rate=16000, channels=1, level=0.1):
    noise = level * np.random.default_rng(0).standard_normal((int(seconds * sample_rate), channels))
    return lambda root: soundfile.write(first(root, pattern), noise, sample_rate)


@pytest.mark.parametrize(
    ("task", "damage", "message"),
    [
        ("pr", remove("lexicon.txt"), "must hold the benchmark's lexicon, librispeech-lexicon-200k.* --s3prl-root"),
        ("pr", rewrite("lexicon.txt", "\tAH0", "\tAX0"), "lexicon.txt, line 1: must be `WORD PHONE PHONE ...`"),
        ("pr", append("test-clean/*/*/*.trans.txt", ""), None),
        ("pr", rewrite("test-clean/*/*/*.trans.txt", " ", " ZYZZYVA "),
         "every word must be in the lexicon .* 1 are not .first ZYZZYVA"),
        ("pr", remove("dev-clean"), "must hold the folder 'dev-clean' of LibriSpeech's layout"),
        ("pr", audio("test-clean/*/*/*.flac", channels=2), "must be 16000 Hz mono .* has 16000 Hz and 2 channel"),
        ("sf", remove("all.iob.snips.txt"), "Audio SNIPS, .* but lacks all.iob.snips.txt .there: "),
        ("sf", remove("slots.txt"), "but lacks slots.txt"),
        ("sf", remove("valid"), "but lacks valid/"),
        ("sf", rewrite("all.iob.snips.txt", "\t", " "),
         "line 1: must be `<id> BOS <words> EOS<TAB>` and a tag for each"),
        ("sf", rewrite("slots.txt", "timeRange\n", ""), "every slot must be in slots.txt, but timeRange is not"),
        ("sf", audio("test/*.wav", sample_rate=8000), "must be 16000 Hz mono .* has 8000 Hz"),
        ("sv", remove("veri_test.txt"), "must hold VoxCeleb1's list of trials, veri_test.txt, .* Get it from https"),
        ("sv", remove("test/wav"), "must be the folder of VoxCeleb1, but lacks test/wav/"),
        ("sv", remove("test/wav/*/*/*.wav"),
         "must hold every file of veri_test.txt, but 1 are missing .first id10270/"),
        ("sv", append("veri_test.txt", "2 a.wav b.wav"), "must be `<1 or 0> <file> <file>`, but is '2 a.wav b.wav'"),
        ("sv", audio("test/wav/*/*/*.wav", level=0.0),
         "must be 0.4 s or longer without its pauses, but 1 are not .first id10270"),
        ("sd", remove("dev"), "but lacks dev/ .there: test, train"),
        ("sd", remove("train/segments"), "train: must be a folder in Kaldi's format, .* but lacks segments"),
        ("sd", rewrite("train/wav.scp", " /", " touch never | "),
         "train/wav.scp: .* must be an audio file, but is 'touch never"),
        ("sd", append("dev/wav.scp", "rec cat /etc/hostname |"),
         "rec must be an audio file, but .*, a command, which is not run"),
        ("sd", append("dev/reco2dur", "elsewhere 3.0"),
         "reco2dur: must have the recordings of wav.scp, but 1 are in one"),
        ("sd", remove("test/rttm"), "test: must be a folder in Kaldi's format, .* but lacks rttm"),
        ("sd", append("test/rttm", "SPEAKER other 1 0.0 1.0 <NA> <NA> a <NA> <NA>"),
         "rttm: must have the recordings of wav.scp"),
        ("sd", rewrite("train/utt2spk", "\n", "-the-third\n"), "must have at most 2 speakers, but .* has more"),
        ("qbe", remove("scoring/groundtruth_quesst14_eval"),
         "QUESST 2014, but lacks scoring/groundtruth_quesst14_eval/"),
        ("qbe", remove("Audio/*.wav"),
         "every file of scoring/language_key_utterances.lst, but 1 are missing .first Audio/"),
        ("qbe", append("scoring/language_key_dev.lst", "alone"), "must be `<path> <language>`, but is 'alone'"),
        ("qbe", rewrite("scoring/groundtruth_quesst14_dev/*.tlist.xml", "quesst14_dev_0001", "x"),
         "but lacks quesst14_dev_0001"),
    ],
)  # fmt: skip
def test_a_corpus_in_the_wrong_layout_is_named_with_what_is_missing(prepare, corpora, tmp_path, task, damage, message):
    corpus = shutil.copytree(corpora[task], tmp_path / "corpus")
    damage(corpus)
    if message is None:  # an empty line at the end is none
        assert prepare(task, corpus)[1]["test"].num_utterances > 1
        return
    with pytest.raises(UserError, match=message):
        prepare(task, corpus)


@pytest.mark.parametrize("task", NAMES)
def test_an_audio_file_is_opened_once_per_corpus(prepare, corpora, task, monkeypatch):
    first_call = prepare(task, corpora[task])
    monkeypatch.setattr(soundfile, "SoundFile", lambda path, *args: pytest.fail(f"{path} is opened again"))
    monkeypatch.setattr(soundfile, "info", lambda path: pytest.fail(f"{path} is opened again"))
    assert prepare(task, corpora[task]) == first_call


@pytest.mark.parametrize(
    ("task", "damage"),
    [
        ("pr", rewrite("lexicon.txt", "\tAH0", "\tAH1")),
        ("sf", rewrite("all.iob.snips.txt", "O movie_name", "movie_name movie_name")),
        ("sv", rewrite("veri_test.txt", "1 id", "0 id")),
        ("qbe", audio("Audio/*.wav", seconds=3)),
    ],
)
def test_the_same_names_with_other_labels_are_another_corpus(prepare, corpora, tmp_path, task, damage):
    corpus = shutil.copytree(corpora[task], tmp_path / "corpus")
    _, before = prepare(task, corpus)
    damage(corpus)
    _, after = prepare(task, corpus)
    assert {key: split.sha256 for key, split in before.items()} != {key: split.sha256 for key, split in after.items()}


def test_an_s3prl_checkout_gives_the_lexicon_and_the_trials(prepare, corpora, tmp_path):
    expert = tmp_path / "s3prl" / "downstream"
    (expert / "ctc" / "lexicon").mkdir(parents=True)
    (expert / "sv_voxceleb1").mkdir()
    speech, voices = (shutil.copytree(corpora[task], tmp_path / task) for task in ("pr", "sv"))
    words = (speech / "lexicon.txt").read_text().splitlines(keepends=True)
    (speech / "lexicon.txt").unlink()
    for name, lines in (("200k", words[:3]), ("allothers", words[3:])):
        (expert / "ctc" / "lexicon" / f"librispeech-lexicon-{name}-g2p.txt").write_text("".join(lines))
    settings, read = prepare("pr", speech, s3prl_root=tmp_path / "s3prl")
    assert len(settings["corpus"]["lexicon"]) == 2 and read["lexicon"].num_utterances == len(words)
    trials = (voices / "veri_test.txt").read_text().splitlines(keepends=True)
    one_of_each = next(line for line in trials if line[0] == "1") + next(line for line in trials if line[0] == "0")
    (expert / "sv_voxceleb1" / "voxceleb1_test_v2.txt").write_text(one_of_each)
    assert prepare("sv", voices, s3prl_root=tmp_path / "s3prl")[1]["trials"].num_utterances == 2


def test_a_lexicons_name_in_git_is_gits(tmp_path):
    from s3prl_pruned.superb.tasks.drivers.libriphone import _git_blob

    path = tmp_path / "lexicon.txt"
    path.write_text("A AH0\n")
    made = subprocess.run(["git", "hash-object", path], capture_output=True, text=True, check=True)
    assert _git_blob(path) == made.stdout.strip()


def test_only_the_benchmarks_speakers_are_taken(prepare, corpora):
    _, all_four = prepare("sf", corpora["sf"])
    _, one = prepare("sf", corpora["sf"], change=lambda expert: expert["corpus"].update(test_speakers=["Brian"]))
    files = [path.name for path in (corpora["sf"] / "test").glob("*.wav")]
    assert all_four["test"].num_utterances == len(files)
    assert one["test"].num_utterances == sum(name.startswith("Brian") for name in files) < len(files)
    with pytest.raises(UserError, match="must hold <speaker>-snips-.* of Nobody with a line"):
        prepare("sf", corpora["sf"], change=lambda expert: expert["corpus"].update(test_speakers=["Nobody"]))


def test_the_three_folders_of_diarization_may_be_anywhere(prepare, corpora, tmp_path):
    folders = {
        f"{split}_dir": str(shutil.copytree(corpora["sd"] / split, tmp_path / f"my_{split}"))
        for split in ("train", "dev", "test")
    }
    settings, read = prepare("sd", tmp_path / "my_train", change=lambda expert: expert["loaderrc"].update(folders))
    assert {key: settings["loaderrc"][key] for key in folders} == folders and set(read) == {"train", "dev", "test"}


def test_an_evaluation_reads_its_own_split_only(prepare, corpora, tmp_path):
    corpus = shutil.copytree(corpora["sd"], tmp_path / "corpus")
    shutil.rmtree(corpus / "train")
    (corpus / "train").mkdir()
    assert set(prepare("sd", corpus, mode="evaluate")[1]) == {"test"}
