"""Every kind of list gives the same utterances, and an error says what is wrong with a list."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from benchmarks.synthetic_audio import synthetic_noise, write_synthetic_corpus
from s3prl_pruned.config import UserError
from s3prl_pruned.data.batches import RandomCropBatches, corpus_lengths
from s3prl_pruned.data.manifest import Utterance, scan_corpus
from s3prl_pruned.data.prepare import prepare
from s3prl_pruned.data.sources import open_corpus, write_manifest

ROOT = Path(__file__).resolve().parents[2]
LENGTHS = [16_000 + 1600 * i for i in range(7)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("lists") / "corpus"
    write_synthetic_corpus(root, lengths=LENGTHS)
    return root


def same_audio(found, expected):
    assert [utt.id for utt in found] == [utt.id for utt in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.num_samples == other.num_samples == len(one.read())
        assert torch.equal(one.read(), other.read())


@pytest.mark.parametrize("name", ["made.jsonl", "made.jsonl.gz"])
def test_a_manifest_gives_what_a_scan_gives(corpus, tmp_path, name):
    number, hours = prepare(corpus, tmp_path / name)
    found = open_corpus(tmp_path / name)
    same_audio(found, scan_corpus(corpus))
    assert number == 7 and hours == pytest.approx(sum(LENGTHS) / 16_000 / 3600)
    assert corpus_lengths(found).tolist() == [utt.num_samples for utt in scan_corpus(corpus)]


def test_a_manifest_may_move_together_with_its_corpus(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "here" / "corpus")
    prepare(tmp_path / "here" / "corpus", tmp_path / "here" / "list.jsonl")
    (tmp_path / "here").rename(tmp_path / "there")
    same_audio(open_corpus(tmp_path / "there" / "list.jsonl"), scan_corpus(tmp_path / "there" / "corpus"))


def test_many_threads_list_what_one_does(corpus):
    assert scan_corpus(corpus, jobs=4) == scan_corpus(corpus)


def test_the_tool_makes_a_manifest_and_refuses_to_overwrite_it(corpus, tmp_path):
    line = [sys.executable, ROOT / "tools" / "prepare_data.py", corpus, tmp_path / "list.jsonl", "--jobs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert first.returncode == 0 and "7 utterances, 0.00 h" in first.stdout and "7/7" in first.stderr
    second = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert second.returncode == 2 and "list.jsonl: exists already" in second.stderr


def test_s3prls_csvs_are_read(corpus, tmp_path):
    scanned = scan_corpus(corpus)
    rows = "".join(f"{i},{utt.path.relative_to(corpus)},{utt.num_samples},a-b-c\n" for i, utt in enumerate(scanned))
    (tmp_path / "train-clean-100.csv").write_text(",file_path,length,label\n" + rows)
    (tmp_path / "other.csv").write_text("file_path,length\nmissing.flac,9\n")
    same_audio(open_corpus(tmp_path, ["train-clean-100"], audio_root=corpus), scanned)
    same_audio(open_corpus(tmp_path / "train-clean-100.csv", audio_root=corpus), scanned)
    with pytest.raises(UserError, match=r"has no \['dev.csv'\]. It has: \['other.csv', 'train-clean-100.csv'\]"):
        open_corpus(tmp_path, ["dev"])
    (tmp_path / "bad.csv").write_text("path,length\na.flac,9\n")
    with pytest.raises(UserError, match=r"bad.csv: .*lacks \['file_path'\]"):
        open_corpus(tmp_path / "bad.csv")


@pytest.fixture(scope="module")
def cuts(corpus):
    """lhotse's own objects: whole recordings, and a piece of one."""
    lhotse = pytest.importorskip("lhotse")
    recordings = [lhotse.Recording.from_file(utt.path) for utt in scan_corpus(corpus)]
    whole = [recording.to_cut() for recording in recordings]
    piece = lhotse.MonoCut(id="piece", start=0.25, duration=0.5, channel=0, recording=recordings[3])
    return lhotse.CutSet.from_cuts([*whole, piece])


def assert_equals_lhotse(found, cuts):
    assert [utt.id for utt in found] == list(cuts.ids)
    for utterance, cut in zip(found, cuts, strict=True):
        expected = torch.from_numpy(cut.load_audio()[0])
        assert utterance.num_samples == len(expected)
        torch.testing.assert_close(utterance.read(), expected, rtol=0, atol=1e-4)  # Shar stores 16 bits


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
def test_a_lhotse_cutset_gives_lhotses_audio(cuts, tmp_path, name):
    cuts.to_file(tmp_path / name)
    found = open_corpus(tmp_path / name)
    assert_equals_lhotse(found, cuts)
    write_manifest(tmp_path / "ours.jsonl", found)
    assert_equals_lhotse(open_corpus(tmp_path / "ours.jsonl"), cuts)


def test_a_resampled_lhotse_cutset_and_a_recording_set_are_read(cuts, tmp_path):
    cuts.resample(8000).to_file(tmp_path / "slow.jsonl")
    assert_equals_lhotse(open_corpus(tmp_path / "slow.jsonl"), cuts)
    import lhotse

    whole = [cut for cut in cuts if cut.id != "piece"]
    lhotse.RecordingSet.from_recordings([cut.recording for cut in whole]).to_file(tmp_path / "recordings.jsonl")
    assert [len(utt.read()) for utt in open_corpus(tmp_path / "recordings.jsonl")] == [cut.num_samples for cut in whole]


def test_a_lhotse_shar_is_read_in_any_order(cuts, tmp_path):
    cuts.to_shar(tmp_path, fields={"recording": "flac"}, shard_size=3)
    found = open_corpus(tmp_path)
    assert len({utt.path for utt in found}) == 3, "three archives"
    assert_equals_lhotse(found, cuts)
    assert torch.equal(found[6].read(), found[6].read())
    write_manifest(tmp_path / "shar.jsonl", found)
    assert_equals_lhotse(open_corpus(tmp_path / "shar.jsonl"), cuts)


def test_unsupported_features_of_lhotse_are_refused_by_name(cuts, tmp_path):
    cuts.perturb_speed(1.1).to_file(tmp_path / "fast.jsonl")
    with pytest.raises(UserError, match=r"line 1: transforms \['Speed'\] are not applied"):
        open_corpus(tmp_path / "fast.jsonl")
    cuts.mix(cuts).to_file(tmp_path / "mixed.jsonl")
    with pytest.raises(UserError, match="line 1: must be a lhotse MonoCut or Recording, but is 'MixedCut'"):
        open_corpus(tmp_path / "mixed.jsonl")


def test_a_shar_that_lost_files_is_refused(cuts, tmp_path):
    cuts.to_shar(tmp_path, fields={"recording": "flac"}, shard_size=3)
    archive = tmp_path / "recording.000001.tar"
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="recording.000001.tar: "):
        open_corpus(tmp_path)
    archive.unlink()
    with pytest.raises(UserError, match="has no recording.000001.tar beside it"):
        open_corpus(tmp_path)


def test_a_manifest_of_missing_files_is_refused_and_few_missing_are_named(corpus, tmp_path, caplog):
    scanned = scan_corpus(corpus)
    gone = [Utterance(f"gone-{i}", tmp_path / f"gone-{i}.flac", 16_000) for i in range(2)]
    write_manifest(tmp_path / "many.jsonl", [*scanned, *gone])
    with pytest.raises(
        UserError, match=r"many.jsonl: 2 of 9 audio files cannot be read(?s:.*)gone-0.flac: no such file"
    ):
        open_corpus(tmp_path / "many.jsonl")
    links = tmp_path / "links"
    links.mkdir()
    for i in range(199):
        (links / f"{i:03d}.flac").symlink_to(scanned[0].path)
    few = [Utterance(str(i), links / f"{i:03d}.flac", 16_000) for i in range(199)]
    (tmp_path / "few.jsonl").write_text(
        "".join(
            json.dumps({"num_samples": 16_000, "id": utt.id, "path": str(utt.path)}) + "\n" for utt in few + gone[:1]
        )
    )
    assert len(open_corpus(tmp_path / "few.jsonl")) == 200
    assert "1 of 200 files checked are missing" in caplog.text and "gone-0.flac" in caplog.text


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no utterances"),
        (
            '{"num_samples": 5, "id": "a", "path": "a"}\n{"num_samples": 5, "id"\n',
            "line 2 is not an utterance|no such file",
        ),
        ('{"num_samples": "many", "id": "a", "path": "a"}\n', "line 1 is not an utterance"),
        ("not json", "line 1: is not a lhotse cut or recording"),
    ],
)
def test_a_damaged_list_is_refused(tmp_path, text, message):
    (tmp_path / "list.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        open_corpus(tmp_path / "list.jsonl")
    with pytest.raises(UserError, match="no such corpus"):
        open_corpus(tmp_path / "nowhere.jsonl")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(UserError, match="cut.jsonl.gz: cannot be read"):
        open_corpus(tmp_path / "cut.jsonl.gz")


def test_pieces_and_spans_at_other_sample_rates_are_resampled(tmp_path):
    samples = synthetic_noise(8_000, seed=0)
    soundfile.write(tmp_path / "slow.wav", samples, 8_000, subtype="FLOAT")
    piece = Utterance("piece", tmp_path / "slow.wav", 8_000, seconds=(0.25, 0.5))
    assert len(piece.read()) == 8_000
    with tarfile.open(tmp_path / "archive.tar", "w") as tar:
        tar.add(tmp_path / "slow.wav", "slow.wav")
    with tarfile.open(tmp_path / "archive.tar") as tar:
        member = tar.getmember("slow.wav")
    span = Utterance("span", tmp_path / "archive.tar", 16_000, span=(member.offset_data, member.size))
    whole = Utterance("whole", tmp_path / "slow.wav", 16_000)
    torch.testing.assert_close(span.read(), whole.read())  # resampled twice
    with pytest.raises(UserError, match=r"slow.wav: is truncated \(the piece ends at 1.200 s, the file at 1.000 s\)"):
        Utterance("beyond", tmp_path / "slow.wav", 8_000, seconds=(0.7, 0.5)).read()
    with pytest.raises(UserError, match="archive.tar: is truncated"):
        Utterance("cut", tmp_path / "archive.tar", 16_000, span=(member.offset_data, 10**9)).read()


def imagined(lengths):
    return [Utterance(str(i), Path(f"{i}.flac"), int(length)) for i, length in enumerate(lengths)]


def test_batches_by_seconds_hold_every_utterance_once_and_never_more_audio():
    lengths = np.random.default_rng(0).integers(8_000, 320_000, size=500)
    batches = RandomCropBatches(
        imagined(lengths),
        batch_size=1,
        max_seconds=15.6,
        min_seconds=0.5,
        seed=3,
        normalize=False,
        max_batch_seconds=40,
    )
    orders = []
    for epoch in range(3):
        members = [batches.members(epoch * len(batches) + i) for i in range(len(batches))]
        assert sorted(int(utt.id) for batch in members for utt in batch) == list(range(500))
        seconds = [len(batch) * min(15.6, *(utt.num_samples / 16_000 for utt in batch), 15.6) for batch in members]
        assert max(seconds) <= 40 and np.mean(seconds) > 25, "batches are filled"
        orders.append([[utt.id for utt in batch] for batch in members])
    assert orders[0] != orders[1] != orders[2]
    assert len(orders[0]) < 500 / 2, "short utterances share large batches"
    with pytest.raises(UserError, match="`max_batch_seconds` must be at least 15.6, but is 10"):
        RandomCropBatches(
            imagined(lengths), batch_size=1, max_seconds=15.6, seed=3, normalize=False, max_batch_seconds=10
        )


def test_a_long_manifest_opens_without_being_parsed(tmp_path, monkeypatch):
    many = imagined(np.random.default_rng(0).integers(16_000, 320_000, size=20_000))
    write_manifest(tmp_path / "many.jsonl", many)
    parsed = []
    monkeypatch.setattr(
        "s3prl_pruned.data.sources.json.loads",
        lambda line: parsed.append(line) or {"num_samples": 1, "id": "", "path": ""},
    )
    monkeypatch.setattr("s3prl_pruned.data.sources.refuse_missing_files", lambda *args, **kwargs: None)
    found = open_corpus(tmp_path / "many.jsonl")
    batches = RandomCropBatches(found, batch_size=24, max_seconds=15.6, seed=0, normalize=False)
    batches.members(12_345)
    assert len(parsed) <= 24 and batches.num_utterances == 20_000
    assert corpus_lengths(found).tolist() == [utt.num_samples for utt in many]
