"""The suite as typed: its options, a stop by Ctrl-C, and once a real task."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from s3prl_pruned.commands import run_suite, suite
from s3prl_pruned.plan.devices import Devices

REPO = Path(__file__).resolve().parents[2]
FAKE = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("-p") + 1])
folder.mkdir(parents=True, exist_ok=True)
begun = (folder / "begun").exists()
(folder / "begun").touch()
print("called with", sys.argv[1:], flush=True)
try:
    while not begun: time.sleep(0.05)
except KeyboardInterrupt:
    print("saved", flush=True); sys.exit(130)
sys.exit("error: would go on")
"""


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder that is called as the clone's root is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("tools").symlink_to(REPO / "tools")
    return tmp_path


def command(*arguments):
    return [sys.executable, "tools/superb_suite.py", *arguments]


def call(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True)


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ([], "-u is missing"),
        (["-u", "a", "b", "-k", "x"], "-k needs exactly one upstream"),
        (["-u", "a", "--lr", "1e-3"], "--lr and --lr-share need --lr-search"),
        (["-u", "a", "--jobs", "0"], "--jobs, --jobs-per-device and --threads must be at least 1"),
        (["-u", "a", "--jobs-per-device", "0"], "--jobs, --jobs-per-device and --threads must be at least 1"),
        (["-u", "a", "--lr-share", "0.2"], "--lr and --lr-share need --lr-search"),
        (["-u", "a", "--lr-search", "--lr", "sv=1e-3"], "is not searched, since the benchmark has no development set"),
        (["-u", "a", "--lr-search", "--lr", "kss=1e-3"], "Did you mean `ks`"),
        (["-u", "a", "--lr-search", "--lr-share", "3"], "--lr-share must be more than 0 and at most 1, but is 3"),
        (["-u", "a", "--tasks", "asr,kss"], "Did you mean `ks`"),
    ],
)
def test_a_command_line_that_does_not_fit_is_refused(clone, arguments, complaint):
    (clone / "run_downstream.py").touch()
    refused = call(*arguments)
    assert refused.returncode == 2 and complaint in refused.stderr and "Traceback" not in refused.stderr


def test_a_device_that_calls_are_given_is_shared_out_to_none(clone, monkeypatch):
    planned = []
    monkeypatch.setattr(run_suite, "run_suite", lambda suite, **fields: planned.append(fields["devices"]) or 0)
    for words in ([], ["--", "--device", "cuda:1"]):
        with pytest.raises(SystemExit):
            suite.main(["-u", "fbank", "--devices", "0,1", *words])
    assert planned == [Devices(("0", "1")), Devices()]


def test_ctrl_c_stops_the_task_which_saves_and_the_same_command_goes_on(clone):
    (clone / "run_downstream.py").write_text(FAKE)
    typed = command(
        "-u", "fbank", "--tasks", "asr,ks", "--no-probe", "--device", "cpu", "--", "--paths", "my paths.yaml"
    )
    log = clone / "results" / "fbank" / "asr.log"
    with subprocess.Popen(typed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (log.exists() and "called" in log.read_text()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, error = process.communicate()
    assert process.returncode == 130 and "interrupted: jobs stopped: fbank/asr. The same command goes on" in error
    assert log.read_text().endswith("saved\n") and "'--device', 'cpu', '--paths', 'my paths.yaml'" in log.read_text()
    (clone / "results" / "fbank" / "ks").mkdir()
    (clone / "results" / "fbank" / "ks" / "begun").touch()
    again = subprocess.run(typed, capture_output=True, text=True)
    assert again.returncode == 1 and "failed: fbank/ks: exit status 1: error: would go on" in again.stderr


@pytest.mark.slow
def test_fbank_recognises_embedded_speech_by_the_suite_searched_and_scored(clone):
    (clone / "run_downstream.py").symlink_to(REPO / "run_downstream.py")
    steps = "config.runner.total_steps=200,,config.runner.save_step=100,,config.runner.eval_step=100"
    typed = (
        "-u",
        "fbank",
        "--tasks",
        "asr",
        "--device",
        "cpu",
        "--quick",
        "-o",
        steps,
        "--lr-search",
        "--lr",
        "asr=1e-3,1e-7",
        "--lr-share",
        "1",
    )
    called = call(*typed)
    assert called.returncode == 0, called.stdout + called.stderr
    (planned,) = (line.split() for line in called.stdout.splitlines() if line.startswith("fbank/asr  "))
    assert planned[1:5] == ["200", "2", "x", "200"] and planned[5] != "-"  # steps, rates, and a time from the probe
    assert "there is no SUPERB score" in called.stdout and "quick protocol, not comparable" in called.stdout
    assert "fbank/asr: learning rate 0.001 (best of 2, dev wer" in called.stdout
    result = json.loads((clone / "results/fbank/asr/result.json").read_text())
    assert result["protocol"] == "quick" and result["checkpoint"]["step"] == 200
    one, other = result["tried_rates"]
    assert one["chosen"] and one["metrics"] == result["metrics"] and one["criterion"]["name"] == "wer"
    assert not other["chosen"] and other["criterion"] is None  # too small a rate to learn anything
    assert other["metrics"] is None and [path.name for path in clone.rglob("test-clean-noLM-hyp.ark")] == [
        "test-clean-noLM-hyp.ark"
    ]
    again = call(*typed, "--no-probe")
    assert again.returncode == 0 and "fbank/asr" in again.stdout and not list(clone.glob("results/fbank/asr/*.old-*"))
