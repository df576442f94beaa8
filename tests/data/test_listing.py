"""Every file of a corpus counts once, whatever its links and permissions; headers are read once per machine."""

import json
import multiprocessing
import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest

from benchmarks.synthetic_audio import write_synthetic_corpus
from s3prl_pruned.config import UserError
from s3prl_pruned.data import lengths
from s3prl_pruned.data.corpus import read_split
from s3prl_pruned.data.listing import files_at_depth, files_below
from s3prl_pruned.data.manifest import scan_corpus
from s3prl_pruned.data.waveforms import num_samples, read_waveform


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(root, *folders):
    return [path.relative_to(root).as_posix() for path in files_below([root / folder for folder in folders or ("",)])]


def test_links_to_parents_and_to_each_other_make_no_loop(tmp_path):
    touch(tmp_path, "a/1.wav", "b/2.wav")
    for link, target in {
        "a/up": "..",
        "b/up": "..",
        "self": ".",
        "a/b": "../b",
        "loop": "loop",
        "x.wav": "x.wav",
    }.items():
        (tmp_path / link).symlink_to(target)
    assert names(tmp_path) == ["a/1.wav", "b/2.wav", "x.wav"]  # opening the last one reports the error


def test_a_file_with_several_names_is_listed_under_its_own(tmp_path):
    touch(tmp_path / "corpus", "real/deep/1.flac", "real/2.FLAC")
    (tmp_path / "corpus" / "a_link").symlink_to("real/deep")
    (tmp_path / "corpus" / "a.flac").symlink_to("real/2.FLAC")
    (tmp_path / "corpus" / "b.flac").symlink_to("real/2.FLAC")
    assert names(tmp_path / "corpus") == ["real/2.FLAC", "real/deep/1.flac"]
    touch(tmp_path, "elsewhere/3.flac")
    for link in ("y", "x"):
        (tmp_path / "corpus" / link).symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "corpus") == ["real/2.FLAC", "real/deep/1.flac", "x/3.flac"]
    assert names(tmp_path / "corpus", "y", "a_link") == ["a_link/1.flac", "y/3.flac"], "named folders count as named"


def test_copies_kept_by_file_systems_and_version_control_are_skipped(tmp_path):
    touch(
        tmp_path,
        "1.wav",
        "._1.wav",
        ".snapshot/1.wav",
        ".git/annex/2.wav",
        "lost+found/3.wav",
        "a/.Trash/4.wav",
        "5.txt",
    )
    assert names(tmp_path) == ["1.wav"]


def test_only_files_at_the_wanted_depth_are_listed(tmp_path):
    touch(tmp_path, "1/2/a.flac", "1/b.flac", "1/2/3/c.flac", "1/2/._a.flac")
    assert files_at_depth(tmp_path, 3) == [tmp_path / "1/2/a.flac"]
    assert files_at_depth(tmp_path / "nowhere", 3) == []


@pytest.fixture
def plain_user():
    """A folder outside root's own, and the permissions of a user who is not root."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder, lambda: os.seteuid(65_534)
    os.seteuid(0)
    shutil.rmtree(folder)


def test_a_file_that_may_not_be_read_is_named(plain_user, caplog):
    folder, become_nobody = plain_user
    paths = write_synthetic_corpus(folder, lengths=[1000] * 10)
    paths[3].chmod(0)
    become_nobody()
    for read in (read_waveform, num_samples):
        with pytest.raises(UserError, match=rf"{paths[3]}: may not be read \(Permission denied\)"):
            read(paths[3])
    assert len(scan_corpus(folder, max_bad_fraction=0.1)) == 9
    assert "1 unreadable files are left out" in caplog.text and str(paths[3]) in caplog.text


def test_a_folder_that_may_not_be_listed_stops_the_scan_by_name(plain_user):
    folder, become_nobody = plain_user
    paths = write_synthetic_corpus(folder, lengths=[1000] * 4)
    paths[1].parents[1].chmod(0)
    become_nobody()
    with pytest.raises(UserError, match=rf"{paths[1].parents[1]}: cannot be listed \(Permission denied\)"):
        scan_corpus(folder)
    with pytest.raises(UserError, match="cannot be listed"):
        read_split(folder, "train-clean-100")


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Lengths of any number of files are cached. The list of files that were opened."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(lengths, "KEPT_FROM", 1)
    found = []
    monkeypatch.setattr(lengths, "num_samples", lambda path: found.append(path) or num_samples(path))
    return found


def test_headers_are_read_once_and_again_where_a_file_changed(tmp_path, opened):
    paths = write_synthetic_corpus(tmp_path / "corpus", lengths=[1000, 2000, 3000, 4000])
    first = scan_corpus(tmp_path / "corpus")
    assert sorted(opened) == sorted(paths)
    opened.clear()
    assert scan_corpus(tmp_path / "corpus") == scan_corpus(tmp_path / "corpus", jobs=1) == first and opened == []
    assert scan_corpus(f"{tmp_path}/corpus/../corpus/") == scan_corpus(f"{tmp_path}/corpus/../corpus") and opened == []
    changed, gone, new = paths[0], paths[1], paths[2].with_name("new.flac")
    shutil.copy(paths[3], changed)
    gone.unlink()
    shutil.copy(paths[3], new)
    second = scan_corpus(tmp_path / "corpus")
    assert sorted(opened) == sorted([changed, new])
    assert {utt.path: utt.num_samples for utt in second} == {changed: 4000, paths[2]: 3000, paths[3]: 4000, new: 4000}


def test_a_file_of_the_same_size_that_was_written_anew_is_opened_again(tmp_path, opened):
    (path,) = write_synthetic_corpus(tmp_path / "corpus", lengths=[1000])
    scan_corpus(tmp_path / "corpus")
    times = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as rsync -t does
    scan_corpus(tmp_path / "corpus")
    assert opened == [path, path]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"a": 5}', b'{"a": [1, 2, 3, "4"]}', b"\xff"])
def test_the_cache_may_be_damaged_or_impossible_to_write(tmp_path, opened, damage, monkeypatch):
    write_synthetic_corpus(tmp_path / "corpus", lengths=[1000, 2000])
    expected = scan_corpus(tmp_path / "corpus")
    (kept,) = (tmp_path / "cache/s3prl_pruned/lengths").glob("*.json")
    kept.write_bytes(damage)
    assert scan_corpus(tmp_path / "corpus") == expected
    assert len(json.loads(kept.read_bytes())) == 2
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", Path("/proc/nowhere")):
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
        assert scan_corpus(tmp_path / "corpus") == expected


def test_headers_are_read_by_several_threads(tmp_path, monkeypatch):
    write_synthetic_corpus(tmp_path, lengths=[1000] * 32)
    four_at_once = threading.Barrier(4, timeout=30)
    monkeypatch.setattr(lengths, "num_samples", lambda path: 1000 + 0 * four_at_once.wait())
    assert len(scan_corpus(tmp_path)) == 32


def test_lengths_of_a_small_corpus_are_not_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_synthetic_corpus(tmp_path / "corpus", lengths=[1000])
    scan_corpus(tmp_path / "corpus")
    assert not (tmp_path / "cache").exists()


def _scan_and_tell(root, queue):
    found = []
    lengths.num_samples = lambda path: found.append(path) or num_samples(path)
    queue.put((len(scan_corpus(root)), len(found)))


def test_processes_that_start_together_read_the_headers_once(tmp_path, opened):
    write_synthetic_corpus(tmp_path / "corpus", lengths=[1000] * 40)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_scan_and_tell, args=(tmp_path / "corpus", queue)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert sorted(found) == [(40, 0), (40, 0), (40, 40)]
