"""Runs that are killed, stopped or run out of disk lose nothing and can be resumed without any difference."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from s3prl_pruned import checkpoint
from s3prl_pruned.config import UserError
from s3prl_pruned.formats.folder import load_encoder, model_hash
from s3prl_pruned.pretrain.command import main
from s3prl_pruned.pretrain.logging import read_log

ROOT = Path(__file__).resolve().parents[2]
LONG = ("-o", "runner.total_steps=120,,runner.save_step=7,,runner.max_keep=3")


def start(recipe, folder, *more, **options):
    command = [sys.executable, ROOT / "run_pretrain.py", *recipe.arguments(folder, *more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, **options)


def resume(path):
    """Resume with `-e` alone, with the run's own configuration."""
    main(["-u", "wavlm_pruned_distill", "-e", str(path), "--device", "cpu"])


def wait_for_checkpoint(process, folder):
    for _ in range(6000):
        if list(folder.glob("states-*.ckpt")):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("no checkpoint within a minute")


def trajectory(folder):
    """The log without values that depend on clock and memory."""
    machine = ("audio_seconds_per_second", "train_seconds", "memory_gib")
    return [{k: v for k, v in line.items() if k not in machine} for line in read_log(folder)]


def numbers(value, name=""):
    """Numbers in nested dicts and lists, by path."""
    if not isinstance(value, (dict, list)):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {path: number for key, inner in items for path, number in numbers(inner, f"{name}/{key}").items()}


def assert_same_to_rounding(folder, other):
    """Compare two short runs of the same arithmetic in another order: all lines of their logs, and their exports.

    Four steps on two threads or with other instructions (`ATEN_CPU_CAPABILITY`) differ by 1e-6, and weights by 6e-6.
    """
    for ours, theirs in zip(trajectory(folder), trajectory(other), strict=True):
        assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-5, abs=1e-6), ours["step"]
    exports = [load_encoder(run / "export")[0] for run in (folder, other)]
    assert exports[0].spec == exports[1].spec
    for name, value in exports[0].state_dict().items():
        torch.testing.assert_close(value, exports[1].state_dict()[name], rtol=0, atol=1e-4, msg=name)


@pytest.fixture(scope="module")
def whole(recipe):
    """The long run, not interrupted."""
    return recipe.train(recipe.root / "whole", *LONG)


def test_a_run_killed_at_any_moment_continues_the_same_trajectory_bit_for_bit(recipe, whole, tmp_path):
    run = tmp_path / "run"
    process = start(recipe, run, *LONG)
    wait_for_checkpoint(process, run)
    time.sleep(random.uniform(0, 0.8))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it must not end before it is killed"
    reached = len(read_log(run))
    recipe.train(run, "-a", *LONG)
    assert trajectory(run) == trajectory(whole), f"killed at step {reached}"
    assert model_hash(run / "export") == model_hash(whole / "export")


@pytest.mark.parametrize(
    "signum, code",
    [
        pytest.param(signal.SIGINT, 130, id="ctrl-c"),
        pytest.param(signal.SIGTERM, 75, id="scheduler"),
        pytest.param(signal.SIGUSR1, 75, id="scheduler's warning", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 75, id="end of the terminal", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_and_sigterm_save_exit_130_and_75_and_the_run_can_go_on(recipe, whole, tmp_path, signum, code):
    run = tmp_path / "run"
    process = start(recipe, run, *LONG)
    wait_for_checkpoint(process, run)
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"interrupted: stopped by {signum.name} after step" in stderr and "Resume with -a" in stderr
    steps = [line["step"] for line in read_log(run)]
    stopped_at = checkpoint.load_checkpoint(checkpoint.newest(run))["Step"]
    assert stopped_at == steps[-1] < 120, "the current step is finished, logged and saved"
    assert not (run / "export").exists()
    resume(run)
    assert trajectory(run) == trajectory(whole)
    assert model_hash(run / "export") == model_hash(whole / "export")


@pytest.mark.parametrize(
    "signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)], ids=["ctrl-c", "end", "warning"]
)
def test_a_signal_to_the_whole_process_group_does_not_lose_the_current_step(recipe, tmp_path, signum, code):
    """As terminals and schedulers send it: also to the worker processes that read audio."""
    run, options = tmp_path / "run", f"{LONG[-1]},,pretrain_expert.datarc.num_workers=2"
    process = start(recipe, run, *LONG[:-1], options, start_new_session=True)
    wait_for_checkpoint(process, run)
    os.killpg(process.pid, signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert f"interrupted: stopped by {signum.name} after step" in stderr
    assert checkpoint.load_checkpoint(checkpoint.newest(run))["Step"] == read_log(run)[-1]["step"] < 120


@pytest.fixture
def unfinished(recipe, tmp_path):
    """A run of six steps that was interrupted after the fourth: checkpoints 2 and 4, log to the end."""
    run = recipe.train(tmp_path / "unfinished", "-o", "runner.total_steps=6,,runner.save_step=2")
    shutil.rmtree(run / "export")
    (run / "states-6.ckpt").unlink()
    return run


def test_an_unfinished_run_is_only_continued_on_request(recipe, unfinished):
    with pytest.raises(UserError, match=r"holds an unfinished run \(states-4.ckpt\). -a continues it, -n NAME"):
        recipe.train(unfinished, "-o", "runner.total_steps=6,,runner.save_step=2")


def test_a_truncated_newest_checkpoint_falls_back_to_the_one_before(recipe, unfinished, caplog, capsys):
    expected = trajectory(unfinished)
    newest = unfinished / "states-4.ckpt"
    newest.write_bytes(newest.read_bytes()[:10_000])
    resume(unfinished)
    assert "states-4.ckpt is truncated (10000 bytes): going back" in caplog.text
    assert f"continuing from {unfinished / 'states-2.ckpt'}" in capsys.readouterr().out
    assert trajectory(unfinished) == expected


def test_a_named_truncated_checkpoint_is_refused(recipe, unfinished):
    newest = unfinished / "states-4.ckpt"
    newest.write_bytes(newest.read_bytes()[:10_000])
    with pytest.raises(UserError, match="states-4.ckpt: is truncated"):
        resume(newest)


def test_a_full_disk_while_saving_leaves_the_previous_checkpoint_intact(recipe, unfinished, monkeypatch):
    """The operating system refuses to write beyond a file size into which only the first checkpoints fit."""
    before = {path.name: path.read_bytes() for path in unfinished.glob("states-*.ckpt")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match="states-6.ckpt: the checkpoint could not be saved.*File too large"):
            resume(unfinished)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in unfinished.glob("states-*.ckpt")} == before
    assert not list(unfinished.glob(".states*")) and not (unfinished / "export").exists()
    resume(unfinished)
    assert (unfinished / "export").is_dir(), "with enough space again, it continues"


def test_a_log_ends_where_its_run_resumes(recipe, unfinished):
    """Lines that an interrupted run logged after its last checkpoint do not appear twice."""
    resume(unfinished)
    assert [line["step"] for line in read_log(unfinished)] == [1, 2, 3, 4, 5, 6]


def test_a_line_cut_off_by_the_kill_does_not_stop_a_resume(recipe, unfinished):
    log = unfinished / "log.jsonl"
    log.write_text(log.read_text() + json.dumps({"step": 7})[:5])
    resume(unfinished)
    assert [line["step"] for line in read_log(unfinished)] == [1, 2, 3, 4, 5, 6]
