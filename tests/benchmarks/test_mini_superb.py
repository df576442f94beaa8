"""MINI-SUPERB is made completely or not at all, the same every time; existing corpora are verified and reused."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import soundfile

from benchmarks.mini_superb import espeak
from benchmarks.mini_superb.build import CORPORA, PATHS, make_mini_superb, reference_contents
from benchmarks.mini_superb.clips import Clip, distinct, join, trim
from benchmarks.mini_superb.sources import VOICE_SOURCES, Sources
from s3prl_pruned.config import UserError
from tests.mini_superb_sources import FakeSources


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The tiny benchmark from fake sources; tests that change it use a copy."""
    folder = tmp_path_factory.mktemp("mini")
    root = folder / "out"
    make_mini_superb(root, tiny=True, sources=FakeSources(folder / "sources"))
    return root


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def stamps(root):
    made_once = [path for path in root.rglob("*") if path.is_file() and path.parent != root and path.name != "wav.scp"]
    return {path: path.stat().st_mtime_ns for path in made_once}


def test_all_ten_tasks_have_their_corpus_where_paths_yaml_says(made):
    assert {task for serves, _ in CORPORA.values() for task in serves} == set(PATHS)
    for task, path in PATHS.items():
        assert (made / path).is_dir(), task
    assert (made / "paths.yaml").read_text().splitlines()[0] == "asr: LibriSpeech"


def test_checksums_are_those_of_all_files_but_wav_scp(made):
    listed = dict(line.split("  ")[::-1] for line in (made / "checksums.txt").read_text().splitlines())
    corpora = [path for path in made.iterdir() if path.is_dir() and path.name != "manifest"]
    there = {
        path.relative_to(made).as_posix(): path for corpus in corpora for path in corpus.rglob("*") if path.is_file()
    }
    assert set(listed) == {name for name in there if not name.endswith("wav.scp")}
    for name, digest in listed.items():
        assert hashlib.sha256(there[name].read_bytes()).hexdigest() == digest


def test_readme_tells_synthetic_speech_from_real(made):
    rows = [[cell.strip() for cell in line.split("|")] for line in (made / "README.md").read_text().splitlines()]
    kinds = {row[1]: row[3] for row in rows if len(row) == 9 and row[3] in ("real", "**synthetic**")}
    assert {task for task, kind in kinds.items() if kind == "**synthetic**"} == {"IC", "ER", "SF"}
    assert {task for task, kind in kinds.items() if kind == "real"} == {"ASR, PR", "KS", "SID, SV", "QBE", "SD"}


def test_second_call_reuses_every_file(copy, tmp_path):
    before = stamps(copy)
    make_mini_superb(copy, tiny=True, sources=FakeSources(tmp_path / "none"))
    assert stamps(copy) == before


def test_two_builds_have_the_same_content(made, tmp_path):
    records = make_mini_superb(tmp_path / "again", tiny=True, sources=FakeSources(tmp_path / "other"))
    for name, record in records.items():
        assert record["content"] == json.loads((made / f"manifest/{name}.json").read_text())["content"], name


def test_changed_file_is_named_and_not_silently_replaced(copy, tmp_path):
    victim = copy / "SNIPS/slots.txt"
    victim.write_text("O\nother")
    with pytest.raises(UserError, match=r"1 of \d+ files of SNIPS .* \(first SNIPS/slots.txt\)"):
        make_mini_superb(copy, tiny=True, sources=FakeSources(tmp_path))
    assert victim.read_text() == "O\nother"


def test_missing_corpus_is_made_again_if_its_record_is_missing_too(copy, tmp_path):
    shutil.rmtree(copy / "SNIPS")
    with pytest.raises(UserError, match="of SNIPS are missing or differ"):
        make_mini_superb(copy, tasks=["sf"], tiny=True, sources=FakeSources(tmp_path))
    (copy / "manifest/SNIPS.json").unlink()
    make_mini_superb(copy, tasks=["sf"], tiny=True, sources=FakeSources(tmp_path))
    assert (copy / "SNIPS/slots.txt").is_file()


def test_full_is_not_made_over_tiny(copy, tmp_path):
    with pytest.raises(UserError, match="'tiny', but this is 'full'. Give another --output"):
        make_mini_superb(copy, sources=FakeSources(tmp_path))


def test_foreign_folder_in_the_way_is_left_alone(tmp_path):
    mine = tmp_path / "out/SNIPS/notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match="SNIPS: exists already, but was not made here"):
        make_mini_superb(tmp_path / "out", tasks=["sf"], tiny=True, sources=FakeSources(tmp_path))
    assert [path.name for path in (tmp_path / "out/SNIPS").iterdir()] == ["notes.txt"]


def test_interrupted_build_leaves_no_half_corpus_and_resumes(tmp_path):
    class Interrupted(FakeSources):
        said = 0

        def say(self, text, voice):
            self.said += 1
            if self.said == 20:
                raise KeyboardInterrupt
            return super().say(text, voice)

    root = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        make_mini_superb(root, tasks=["asr", "ic"], tiny=True, sources=Interrupted(tmp_path))
    assert not (root / "fluent_speech_commands_dataset").exists()
    assert (root / "manifest/LibriSpeech.json").is_file()
    make_mini_superb(root, tasks=["asr", "ic"], tiny=True, sources=FakeSources(tmp_path))
    assert len(list((root / "fluent_speech_commands_dataset").rglob("*.wav"))) == 3 * 31
    assert not list(root.glob(".*"))


def test_stop_between_the_moves_of_two_folders_is_finished(copy, tmp_path):
    # The state after KS's first folder was moved, but not its second and the record.
    partial = copy / ".speech_commands.partial"
    partial.mkdir()
    (copy / "speech_commands_test_set_v0.01").rename(partial / "speech_commands_test_set_v0.01")
    (copy / "manifest/speech_commands.json").rename(partial / "record.json")
    make_mini_superb(copy, tiny=True, sources=FakeSources(tmp_path))
    assert (copy / "speech_commands_test_set_v0.01/yes").is_dir() and not partial.exists()


def test_task_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match="but asx are not"):
        make_mini_superb(tmp_path, tasks=["asx"], sources=FakeSources(tmp_path))


def test_output_that_is_a_file_is_one_clear_error(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="out: the output must be a folder that can be made"):
        make_mini_superb(tmp_path / "out", tasks=["sf"], tiny=True, sources=FakeSources(tmp_path))


def test_reference_names_every_corpus_in_both_variants():
    contents = reference_contents()
    for variant in ("full", "tiny"):
        assert contents[variant].keys() == CORPORA.keys()
        assert all(len(content) == 64 for content in contents[variant].values())


def test_every_voice_source_is_free_of_non_commercial_terms():
    assert all("NC" not in source.licence for source in VOICE_SOURCES)


def test_missing_apt_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="`apt-get` is needed to fetch the Debian package `klettres-data`"):
        Sources(tmp_path / "packages").letters()


def test_missing_espeak_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"espeak-ng is needed for the synthetic tasks \(IC, SF, ER\)"):
        espeak.Espeak.find(tmp_path / "packages")


def test_trim_keeps_the_speech_and_its_margin():
    speech = np.full(1600, 8000, np.int16)
    wav = np.concatenate([np.zeros(16_000, np.int16), speech, np.full(8000, 20, np.int16)])  # followed by -52 dB
    assert len(trim(wav)) == 1600 + 2 * 800
    assert np.abs(trim(wav)).max() == 8000


def test_copies_of_a_clip_count_once_across_voices(tmp_path):
    wav = np.round(8000 * np.sin(np.arange(8000) / 7)).astype(np.int16)
    for name in ("a", "b", "silent"):
        soundfile.write(tmp_path / f"{name}.wav", wav * (name != "silent"), 16_000)
    clips = [Clip(voice=f"x/{name}", name=name, path=tmp_path / f"{name}.wav") for name in ("a", "b", "silent")]
    assert [clip.name for clip, _ in distinct(clips, set())] == ["a"]


def test_join_gives_utterances_with_at_least_the_requested_speech():
    clips = [np.full(8000, value, np.int16) for value in range(1, 8)]
    joined = list(join(clips, seconds=1.2))
    assert [sorted(set(wav)) for wav in joined] == [[0, 1, 2, 3], [0, 4, 5, 6]]  # the seventh is too short alone
    assert len(joined[0]) == 3 * 8000 + 2 * 1600
