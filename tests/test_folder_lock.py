"""One process at a time in a folder, and what a crash leaves stops nobody: on disks with locks and without."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from s3prl_pruned import folder_lock
from s3prl_pruned.config import UserError
from s3prl_pruned.folder_lock import NAME, FolderInUse, is_unused, locked, locked_in_turn

HOLD = (
    "import sys, time\nfrom s3prl_pruned.folder_lock import locked\n"
    "with locked(sys.argv[1]):\n    print('held', flush=True)\n    "
)


def process(folder, code):
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path / "run"`."""
    holding = process(tmp_path / "run", HOLD + "time.sleep(60)")
    assert holding.stdout.readline() == "held\n"
    yield holding
    holding.kill()
    holding.communicate()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(folder_lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(folder_lock, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(folder_lock, "_RIVALS_SECONDS", 0.2)


@pytest.fixture
def without_locks(monkeypatch, impatient):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)


def test_who_waits_for_a_turn_says_so_once_and_gets_it(holder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(folder_lock, "WAIT_SECONDS", 0.02)
    threading.Timer(0.3, holder.kill).start()
    with locked_in_turn(tmp_path / "run", NAME):
        assert holder.wait() == -signal.SIGKILL
        with pytest.raises(FolderInUse), locked(tmp_path / "run"):
            pass
    assert caplog.text.count(f"process {holder.pid} on ") == caplog.text.count("Waiting for it") == 1


def test_a_second_process_is_refused_and_told_whose_the_folder_is(holder, tmp_path):
    mine = rf"run: another process is using this folder \(process {holder.pid} on "
    with pytest.raises(UserError, match=mine), locked(tmp_path / "run"):
        pass


def test_a_killed_process_gives_its_lock_back_at_once(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    began = time.monotonic()
    with locked(tmp_path / "run"):
        assert time.monotonic() - began < 5
    assert list((tmp_path / "run").iterdir()) == [], "it goes when its holder does"


def test_a_child_does_not_keep_its_parents_lock(tmp_path):
    """A killed run's readers live on for seconds."""
    code = HOLD + "import os\n    if os.fork() == 0:\n        time.sleep(60)\n    os.kill(os.getpid(), 9)"
    holding = process(tmp_path / "run", f"import os\n{code}".replace("print('held', flush=True)", "pass"))
    holding.wait()
    with locked(tmp_path / "run"):
        pass
    os.close(holding.stdout.fileno())  # the child's copy of it may stay open


def test_two_locks_of_a_folder_do_not_meet(tmp_path):
    with locked(tmp_path), locked(tmp_path, ".dev.lock"):
        assert {path.name for path in tmp_path.iterdir()} == {NAME, ".dev.lock"}


def other_machines(folder, *, alive):
    """What a holder elsewhere leaves in the folder; if alive, it counts on. Returns what ends it."""
    folder.mkdir(exist_ok=True)
    ended = threading.Event()

    def count(number):
        (folder / NAME).write_text(f"another-machine node7 123 {number}".ljust(200))

    def beat():
        number = 0
        while not ended.wait(0.05):
            number += 1
            with open(folder / NAME, "r+") as file:  # this process has no lock of the file yet, so that none is lost
                file.write(f"another-machine node7 123 {number}".ljust(200))

    count(0)
    if alive:
        threading.Thread(target=beat, daemon=True).start()
    return ended


def test_a_holder_on_another_machine_is_seen_by_its_count(tmp_path, impatient):
    """Where the disk knows locks within one machine only."""
    ended = other_machines(tmp_path / "run", alive=True)
    try:
        with pytest.raises(UserError, match=r"\(process 123 on node7\)"), locked(tmp_path / "run"):
            pass
    finally:
        ended.set()


def test_a_dead_machines_folder_is_taken_over_after_a_while(tmp_path, impatient, caplog):
    other_machines(tmp_path / "run", alive=False)
    began = time.monotonic()
    with locked(tmp_path / "run"):
        assert time.monotonic() - began >= 0.5
    assert "belongs to process 123 on node7; checking for" in caplog.text


class _Nobody(set):
    """Of a process that does not know what it holds, as if it were another."""

    def __contains__(self, path):
        return False


def test_a_process_does_not_let_itself_in_again(tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} on "), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_on_a_disk_without_locks_the_count_alone_decides(tmp_path, without_locks, monkeypatch):
    monkeypatch.setattr(folder_lock, "_held", _Nobody())
    with locked(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} on "), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_on_a_disk_without_locks_one_of_two_that_start_together_goes_on(tmp_path, impatient):
    code = (
        "import fcntl, os\nfrom s3prl_pruned import folder_lock\n"
        "def refuse(*_): raise OSError(38, 'Function not implemented')\n"
        "fcntl.lockf = refuse\nfolder_lock.BEAT_SECONDS, folder_lock.PATIENCE_SECONDS = 0.1, 20\n"
        "open(f'ready-{os.getpid()}', 'w').close()\nwhile not os.path.exists('go'): pass\n"
    )
    until_refused = "while not os.path.exists('refused'): time.sleep(0.05)"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code + HOLD + until_refused, str(tmp_path / "run")],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    while len(list(tmp_path.glob("ready-*"))) < 2:  # on a busy machine one may start seconds later
        assert all(each.poll() is None for each in both)
        time.sleep(0.1)
    (tmp_path / "go").touch()
    end = time.monotonic() + 60
    while all(each.poll() is None for each in both) and time.monotonic() < end:
        time.sleep(0.1)
    (tmp_path / "refused").touch()
    outputs = [each.communicate(timeout=60) for each in both]
    assert sorted(out for out, _ in outputs) == ["", "held\n"], outputs
    assert sum("another process is using" in error for _, error in outputs) == 1


def test_a_lock_that_another_has_remade_is_left_alone(tmp_path):
    with locked(tmp_path / "run"):
        (tmp_path / "run").rename(tmp_path / "aside")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / NAME).write_text("another's")
    assert (tmp_path / "run" / NAME).read_text() == "another's"


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match="run: cannot be written .*Read-only file system"), locked(tmp_path / "run"):
        pass


def test_hidden_files_alone_are_no_run(tmp_path):
    assert is_unused(tmp_path / "absent") and is_unused(tmp_path)
    (tmp_path / ".run.json.tmp").write_text("{")
    assert is_unused(tmp_path)
    (tmp_path / "states-1.ckpt").touch()
    assert not is_unused(tmp_path)
