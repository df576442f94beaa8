"""The command as typed, in its own process: chain with the score, kill -9, exit statuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.synthetic_corpus import SHORT_SETTINGS, make_corpus

REPO = Path(__file__).resolve().parents[2]
TASK = ["run_downstream.py", "-u", "fbank", "-d", "asr", "--device", "cpu", "--corpus", "corpus"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    make_corpus(tmp_path / "corpus")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def typed(*command):
    return [sys.executable, str(REPO / command[0]), *command[1:]]


def call(*command):
    return subprocess.run(typed(*command), capture_output=True, text=True)


def test_a_killed_run_is_resumed_and_scored(folder):
    settings = SHORT_SETTINGS.replace("total_steps=4", "total_steps=40") + ",,config.runner.max_keep=9"
    run = folder / "results" / "fbank" / "asr"
    with subprocess.Popen(
        typed(*TASK, "-o", settings), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while len(list(run.glob("states-*.ckpt"))) < 2:  # s3prl may be in the middle of the newest
            assert process.poll() is None and time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    # On a busy machine the kill may come after the last step.
    for name in ("states-40.ckpt", "result.json"):
        (run / name).unlink(missing_ok=True)

    refused = call(*TASK, "-o", settings)
    assert refused.returncode == 2 and refused.stderr.splitlines()[-1].startswith(
        "error: results/fbank/asr: holds this run"
    )
    assert "Traceback" not in refused.stderr
    resumed = call(*TASK, "-o", settings, "-a")
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming from results/fbank/asr/states-" in resumed.stdout
    result = json.loads((run / "result.json").read_text())
    assert result["checkpoint"]["step"] <= 40 and result["num_utterances"] == 3

    scored = call("tools/superb_score.py", "results/")
    assert scored.returncode == 0, scored.stderr
    wer = next(value["value"] for value in result["metrics"] if value["name"] == "wer")
    assert f"{wer:.2f}" in scored.stdout
    assert "there is no SUPERB score" in scored.stdout and "custom protocol" in scored.stdout


def test_sigterm_to_the_whole_group_saves_and_exits_75_and_the_requeued_call_ends_the_run(folder):
    """A scheduler's signal reaches the processes that read data too."""
    settings = SHORT_SETTINGS.replace("total_steps=4", "total_steps=60").replace("save_step=2", "save_step=60")
    settings = settings.replace("eval_step=2", "eval_step=60").replace("num_workers=0", "num_workers=1")
    run = folder / "results" / "fbank" / "asr"
    with subprocess.Popen(
        typed(*TASK, "-o", settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 120
        while "train loss:" not in (log.read_text() if (log := run / "stdout.log").exists() else ""):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGTERM)
        _, error = process.communicate()
    assert process.returncode == 75, error[-2000:]
    assert "interrupted: stopped by SIGTERM after step" in error and "Traceback" not in error
    assert (run / "interrupted.ckpt").exists() and not list(run.glob("states-*"))
    shorter = call(*TASK, "-o", settings, "-a", "-m", "train")
    assert shorter.returncode == 0, shorter.stderr[-2000:]
    assert "Resuming from results/fbank/asr/interrupted.ckpt" in shorter.stdout
    assert (run / "trained.json").exists() and not (run / "interrupted.ckpt").exists()


def test_the_whole_help_has_every_letter_of_s3prl(folder):
    shown = call("run_downstream.py", "--help-all")
    assert shown.returncode == 0
    for letter in "u d m o v t n p a e i k g r f s l c".split():
        assert f"\n  -{letter} " in shown.stdout or f"\n  -{letter}, " in shown.stdout
