"""Runs that are stopped, killed or out of disk, and go on from their checkpoints."""

import dataclasses
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from s3prl_pruned.command_line import Interrupted, Stopped
from s3prl_pruned.config import UserError
from s3prl_pruned.folder_lock import locked
from s3prl_pruned.superb.results.collect import finished_runs
from s3prl_pruned.superb.results.result import INTERRUPTED, read_result, write_result
from s3prl_pruned.superb.running import run
from s3prl_pruned.superb.running.stoppable import StoppableTraining
from s3prl_pruned.superb.tasks import checkpoints
from tests.superb.running.command import FOLDER, STATES, command, half_trained
from tests.synthetic_corpus import SHORT_SETTINGS


def test_an_unfinished_run_goes_on_only_when_asked_and_from_its_checkpoint(again):
    for name in ("result.json", STATES[1]):
        (FOLDER / name).unlink()
    with pytest.raises(UserError, match="holds this run unfinished. Give -a to resume"):
        again()
    printed = again("-a")
    assert f"Resuming from {FOLDER / STATES[0]}" in printed
    assert read_result(FOLDER / "result.json").checkpoint.step == 4
    assert torch.load(FOLDER / STATES[1], weights_only=True)["Step"] == 4


def test_a_truncated_checkpoint_is_skipped(again, caplog):
    (FOLDER / "result.json").unlink()
    whole = (FOLDER / STATES[1]).read_bytes()
    (FOLDER / STATES[1]).write_bytes(whole[: len(whole) // 2])
    printed = again("-a")
    assert f"{STATES[1]}: is truncated, or is no torch checkpoint" in caplog.text
    assert f"Resuming from {FOLDER / STATES[0]}" in printed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, whose disk is always full")
def test_a_full_disk_is_one_clear_error_and_keeps_saved_checkpoints(again, monkeypatch):
    (FOLDER / "result.json").unlink()
    (FOLDER / STATES[1]).unlink()
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda states, path: save(states, "/dev/full"))
    with pytest.raises(UserError, match="results/fbank/asr: cannot be written .* Make room; -a resumes"):
        again("-a")
    assert checkpoints.newest_checkpoint(FOLDER) == FOLDER / STATES[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, whose disk is always full")
def test_the_oldest_checkpoint_is_kept_until_the_new_one_is_complete(again, monkeypatch):
    """s3prl deletes first, and writes in place."""
    save, few = torch.save, ("-u", "fbank", "-n", "few", "-o", f"{SHORT_SETTINGS},,config.runner.max_keep=1")
    folder = Path("results/few/asr")
    monkeypatch.setattr(torch, "save", lambda states, path: save(states, path if states["Step"] == 2 else "/dev/full"))
    with pytest.raises(UserError, match="results/few/asr: cannot be written"):
        command(*few)
    assert [path.name for path in folder.glob("states-*")] == ["states-2.ckpt"]
    monkeypatch.setattr(torch, "save", save)
    assert f"Resuming from {folder / 'states-2.ckpt'}" in command(*few, "-a")
    assert [path.name for path in folder.glob("states-*")] == ["states-4.ckpt"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_stop_signal_saves_the_current_step_and_a_requeued_run_resumes_from_it(again, monkeypatch, signum):
    made = StoppableTraining.made

    def made_and_told(self):
        if self.step == 2:
            os.kill(os.getpid(), signum)
        made(self)

    folder, settings = Path("results/told/asr"), f"{SHORT_SETTINGS},,config.runner.max_keep=1"
    with monkeypatch.context() as patch:
        patch.setattr(StoppableTraining, "made", made_and_told)
        with pytest.raises(Interrupted, match=f"stopped by {signum.name} after step 3; it is saved. Resume") as stopped:
            command("-u", "fbank", "-n", "told", "-o", settings)
    assert stopped.value.exit_code == 75
    # The step is no multiple of save_step: training resumes from it, and it replaces no numbered checkpoint.
    assert {path.name for path in folder.glob("*.ckpt")} == {"states-2.ckpt", "interrupted.ckpt"}
    states = torch.load(folder / "interrupted.ckpt", weights_only=False)
    assert states["Step"] == 3 and type(states["Config"]["runner"]["save_step"]) is int
    assert checkpoints.numbered_checkpoints(folder) == [folder / "states-2.ckpt"]
    printed = command("-u", "fbank", "-n", "told", "-o", settings, "-a")
    assert f"Resuming from {folder / 'interrupted.ckpt'}" in printed
    assert read_result(folder / "result.json").checkpoint.step == 4
    assert [path.name for path in folder.glob("*.ckpt")] == ["states-4.ckpt"]


def test_a_run_that_was_stopped_before_its_first_numbered_checkpoint_is_unfinished(again, monkeypatch):
    made, folder = StoppableTraining.made, Path("results/early/asr")

    def told_and_made(self):
        os.kill(os.getpid(), signal.SIGTERM)
        made(self)

    with monkeypatch.context() as patch:
        patch.setattr(StoppableTraining, "made", told_and_made)
        with pytest.raises(Interrupted, match="after step 1; it is saved"):
            again("-n", "early")
    again("-n", "early", "-m", "evaluate")
    look = read_result(folder / "look-test-clean-step1.json")
    assert look.look == "the training stood at step 1 of 4" and look.checkpoint.step == 1
    shutil.copy(folder / INTERRUPTED, folder / "dev-clean-best.ckpt")
    again("-n", "early", "-m", "evaluate", "-t", "dev-clean")
    assert {path.name for path in folder.glob("*.json")} == {
        "run.json", "look-test-clean-step1.json", "look-dev-clean-step1.json",
    }  # fmt: skip
    write_result(folder / "result.json", dataclasses.replace(look, look=None))  # as earlier versions named it
    assert finished_runs(Path("results/early")) == ({}, [folder])
    assert f"Resuming from {folder / INTERRUPTED}" in again("-n", "early", "-a", "-m", "train")
    assert (folder / "result.json.old-1").is_file() and not (folder / "result.json").exists()


@pytest.mark.parametrize(("left", "name"), [("run.json", "look-dev-clean-step2"), ("result.json", "result-dev-clean")])
def test_a_lone_best_checkpoint_is_of_a_finished_training_only_if_it_reached_the_end(again, left, name):
    (FOLDER / STATES[0]).rename(FOLDER / "dev-clean-best.ckpt")
    (FOLDER / STATES[1]).unlink()
    if left == "run.json":
        (FOLDER / "result.json").unlink()
    again("-m", "evaluate", "-t", "dev-clean")
    assert read_result(FOLDER / f"{name}.json").checkpoint.step == 2


def test_an_early_evaluation_is_named_by_the_interrupted_step(again):
    half_trained()
    torch.save(torch.load(FOLDER / STATES[0], weights_only=True) | {"Step": 3}, FOLDER / INTERRUPTED)
    again("-m", "evaluate")
    assert read_result(FOLDER / "look-test-clean-step3.json").checkpoint.step == 3


def test_a_signal_in_the_last_step_stops_before_the_evaluation(again, monkeypatch):
    save = StoppableTraining.save

    def save_and_be_told(self, path, states):
        if states["Step"] == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return save(self, path, states)

    with monkeypatch.context() as patch:
        patch.setattr(StoppableTraining, "save", save_and_be_told)
        with pytest.raises(Interrupted, match="after step 4; it is saved"):
            again("-n", "late")
    assert not Path("results/late/asr/result.json").exists()
    assert "already at the last step" in again("-n", "late", "-a")


def test_a_later_checkpoint_is_resumed_rather_than_an_interrupted_one(again):
    shutil.copy(FOLDER / STATES[0], FOLDER / INTERRUPTED)
    assert checkpoints.newest_checkpoint(FOLDER) == FOLDER / STATES[1]
    shutil.copy(FOLDER / STATES[1], FOLDER / INTERRUPTED)
    (FOLDER / STATES[1]).unlink()
    assert checkpoints.newest_checkpoint(FOLDER) == FOLDER / INTERRUPTED
    (FOLDER / INTERRUPTED).write_bytes(b"half")
    assert checkpoints.newest_checkpoint(FOLDER) == FOLDER / STATES[0]


def test_a_run_killed_before_it_wrote_run_json_begins_anew(again):
    shutil.rmtree(FOLDER)
    FOLDER.mkdir()
    (FOLDER / ".run.json.123").write_text("{")
    again("-a", "-m", "train")
    assert (FOLDER / "run.json").is_file() and (FOLDER / STATES[1]).is_file()


def test_a_folder_in_use_is_refused_but_a_finished_run_is_read(again, capsys):
    with locked(FOLDER):
        assert "nothing to do" in again()
        (FOLDER / "result.json").unlink()
        with pytest.raises(UserError, match="results/fbank/asr: another process is using this folder"):
            again("-a")
        with locked(FOLDER, ".evaluate-test-clean.lock"), pytest.raises(UserError, match="another process is using"):
            again("-m", "evaluate")
        again("-m", "evaluate")
    assert not [path.name for path in FOLDER.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("error, code", [(KeyboardInterrupt(), 130), (Stopped(signal.SIGUSR1), 75)])
def test_a_stop_says_how_to_resume(again, monkeypatch, error, code):
    def stop(options):
        raise error

    monkeypatch.setattr(run, "run_task", stop)
    with pytest.raises(Interrupted, match="the same command with -a resumes from the last checkpoint") as stopped:
        again()
    assert stopped.value.exit_code == code


def test_files_of_something_else_are_not_touched(again):
    (FOLDER / "run.json").unlink()
    with pytest.raises(UserError, match="is not empty and was not written by this command"):
        again("-a")
