"""A checkpoint is whole or absent, and reading one from a stranger runs nothing of it."""

import errno
import logging
import os
import pickle
import random
import subprocess
import sys
import textwrap
from fractions import Fraction

import numpy
import pytest
import torch

from s3prl_pruned.checkpoint import (
    checkpoint_path,
    load_checkpoint,
    newest,
    point_latest,
    rotate,
    save_checkpoint,
    write_text,
)
from s3prl_pruned.config import UserError


def assert_same(ours, theirs):
    if isinstance(theirs, torch.Tensor):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_same(ours[key], theirs[key])
    else:
        assert type(ours) is type(theirs) and ours == theirs


def training_state():
    """A real optimiser's and generators' states after one step."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "torch_rng": torch.Generator().manual_seed(5).get_state(),
        "python_rng": random.Random(5).getstate(),
        "step": 7,
        "recipe": {"learning_rate": 2e-4, "layers": [3, 6], "teacher": None, "use_ste": True},
    }


def test_a_training_state_comes_back_as_it_was(tmp_path):
    state = training_state()
    save_checkpoint(tmp_path / "new" / "states-7.ckpt", state)
    assert_same(load_checkpoint(tmp_path / "new" / "states-7.ckpt"), state)


@pytest.mark.parametrize("value", [numpy.float64(1), numpy.zeros(2), {1.5: 0}, {1, 2}, object()])
def test_what_could_not_be_read_back_is_refused_at_saving(tmp_path, value):
    with pytest.raises(TypeError, match=r"state\['log'\]\[1\]"):
        save_checkpoint(tmp_path / "a.ckpt", {"log": [0, value]})
    assert list(tmp_path.iterdir()) == []


def assert_previous_is_whole(path, previous):
    assert_same(load_checkpoint(path), previous)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_previous_checkpoint_whole(tmp_path, monkeypatch, call):
    path, previous = tmp_path / "states-1.ckpt", {"weight": torch.arange(4)}
    save_checkpoint(path, previous)

    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, no_space)
    with pytest.raises(UserError, match="states-1.ckpt: the checkpoint could not be saved .*No space"):
        save_checkpoint(path, {"weight": torch.zeros(4)})
    assert_previous_is_whole(path, previous)


def test_a_write_that_the_system_cuts_off_leaves_the_previous_checkpoint_whole(tmp_path):
    """The real thing: the kernel refuses bytes in the middle of torch's own writer."""
    path, previous = tmp_path / "states-1.ckpt", {"weight": torch.arange(4)}
    save_checkpoint(path, previous)
    script = f"""
        import resource, torch
        from s3prl_pruned.checkpoint import save_checkpoint
        from s3prl_pruned.config import UserError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save_checkpoint({str(path)!r}, {{"weight": torch.zeros(1_000_000)}})
        except UserError as error:
            print(error)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60)
    assert "could not be saved ([Errno 27] File too large)" in result.stdout, result.stderr
    assert "Free space or name another folder" in result.stdout
    assert_previous_is_whole(path, previous)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_disk_that_cannot_sync_keeps_checkpoints_all_the_same(tmp_path, monkeypatch, code):
    """SMB and some mounts refuse to sync a folder; the file is whole and has its name by then."""

    def refuse(_):
        raise OSError(code, "refused")

    monkeypatch.setattr(os, "fsync", refuse)
    save_checkpoint(tmp_path / "states-1.ckpt", {"step": 1})
    assert load_checkpoint(tmp_path / "states-1.ckpt") == {"step": 1}


def test_a_name_that_is_busy_for_a_moment_is_taken_a_moment_later(tmp_path, monkeypatch):
    """SMB, while a reader has the old file open."""
    write_text(tmp_path / "run.json", "old")
    replace, calls = os.replace, []

    def busy_twice(source, target):
        calls.append(target)
        if len(calls) < 3:
            raise PermissionError(errno.EACCES, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", busy_twice)
    write_text(tmp_path / "run.json", "new")
    assert (tmp_path / "run.json").read_text() == "new" and len(calls) == 3


def test_a_checkpoint_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "states-1.ckpt"
    save_checkpoint(path, {"weight": torch.arange(100)})
    whole = path.read_bytes()
    for size in (0, 1, 10, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=rf"states-1.ckpt: is truncated.*\({size} bytes\)") as caught:
            load_checkpoint(path)
        assert "weights_only" not in str(caught.value), "must not advise to switch protection off"


def test_a_checkpoint_with_a_flipped_byte_never_crashes_the_reader(tmp_path):
    path = tmp_path / "states-1.ckpt"
    save_checkpoint(path, {"weight": torch.arange(8)})
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 23):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except UserError:
            refused += 1
    assert refused > 10


class Payload:
    """A pickle that writes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_foreign_class_is_named_and_never_made(tmp_path, zipped):
    target, path = tmp_path / "executed", tmp_path / "evil.pt"
    torch.save({"model": Payload(target)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"evil.pt: holds an object of the class posix.mkdir"):
        load_checkpoint(path)
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists(), "the payload is harmless, so that this test proves nothing"


def test_a_bare_pickle_is_refused_and_never_run(tmp_path):
    target, path = tmp_path / "executed", tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": Payload(target)}, protocol=2))
    with pytest.raises(UserError, match="evil.pkl: "):
        load_checkpoint(path)
    assert not target.exists()


def test_a_harmless_foreign_class_is_refused_too(tmp_path):
    path = tmp_path / "args.pt"
    torch.save({"Args": Fraction(1, 2)}, path)  # not argparse.Namespace: compat allows that for s3prl
    with pytest.raises(UserError, match="class fractions.Fraction.*Save only its state dict"):
        load_checkpoint(path)


def test_a_checkpoint_that_is_no_dict_or_not_there_is_refused(tmp_path):
    torch.save(torch.zeros(2), tmp_path / "tensor.pt")
    with pytest.raises(UserError, match="tensor.pt: must hold a dict, but holds a Tensor"):
        load_checkpoint(tmp_path / "tensor.pt")
    with pytest.raises(UserError, match="nowhere.pt: no such file"):
        load_checkpoint(tmp_path / "nowhere.pt")


@pytest.fixture
def run(tmp_path):
    """A folder with checkpoints of steps 2, 10 and 9, written in this order."""
    for step in (2, 10, 9):
        save_checkpoint(checkpoint_path(tmp_path, step), {"step": step})
    (tmp_path / "states-best.ckpt").write_text("not one of ours")
    return tmp_path


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def test_newest_goes_by_step_not_by_name_or_time(run, tmp_path_factory):
    assert newest(run) == checkpoint_path(run, 10)
    assert newest(tmp_path_factory.mktemp("empty")) is None
    assert newest(run / "absent") is None


def test_newest_passes_over_a_truncated_one_and_says_so(run, caplog):
    truncate(checkpoint_path(run, 10))
    with caplog.at_level(logging.WARNING):
        assert newest(run) == checkpoint_path(run, 9)
    assert "states-10.ckpt is truncated" in caplog.text


def test_a_disk_without_links_has_no_latest_and_a_warning_says_so_once(run, monkeypatch, caplog):
    point_latest(run)
    assert os.readlink(run / "latest") == "states-10.ckpt"

    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    save_checkpoint(checkpoint_path(run, 11), {"step": 11})
    for _ in range(2):
        point_latest(run)
    assert not os.path.lexists(run / "latest"), "none is better than one that leads to an old checkpoint"
    assert caplog.text.count("the link `latest` cannot be made (Operation not permitted)") == 1


def test_rotate_keeps_the_newest_whole_ones_and_sweeps_up_halves(run):
    (run / ".states-11.ckpt.tmp").write_bytes(b"half")
    truncate(checkpoint_path(run, 10))
    rotate(run, 1)
    names = sorted(path.name for path in run.iterdir())
    assert names == ["states-10.ckpt", "states-9.ckpt", "states-best.ckpt"]
    assert newest(run) == checkpoint_path(run, 9)


def test_rotate_never_deletes_everything(run):
    with pytest.raises(UserError, match="`max_keep` must be at least 1, but is 0"):
        rotate(run, 0)
