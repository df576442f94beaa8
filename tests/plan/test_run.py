"""Jobs run here: their order, failures, signals, and a second call."""

import fcntl
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.plan.devices import Devices, find_devices
from s3prl_pruned.plan.jobs import Job
from s3prl_pruned.plan.run import run
from tests.planned_jobs import job, order

REPO = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("folder")


def test_jobs_run_in_the_plans_order_and_after_what_they_wait_for():
    report = run([job("c", after=("b",)), job("a"), job("b")])
    assert order() == ["a", "b", "c"]
    assert report.exit_code == 0 and not report.failures and set(report.seconds) == {"a", "b", "c"}


def test_progress_shows_how_many_jobs_ended_and_the_time_left(capsys):
    run([job("a", seconds=100), job("b", "import time; time.sleep(0.2)", seconds=100)])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "[0/2, about 3 min left] a: started" and shown[1].startswith(
        "[1/2, about 0 s left] a: done in 0 s"
    )
    assert shown[-1].startswith("[2/2] b: done in")


def test_a_failing_job_stops_those_only_that_wait_for_it(capsys):
    broken = job("broken", "sys.exit('error: no such corpus')")
    report = run([broken, job("child", after=("broken",)), job("grandchild", after=("child",)), job("other"),
                  job("last", after=("broken", "other"), even_after_failure=True)])  # fmt: skip
    assert order() == ["broken", "other", "last"]
    assert {name: failure.reason for name, failure in report.failures.items()} == {
        "broken": "exit status 1: error: no such corpus",
        "child": "not called, since broken failed",
        "grandchild": "not called, since child failed",
    }
    assert report.exit_code == 1
    assert "failed: broken" in report.failures_text() and "logs/broken.log" in report.failures_text()
    assert "[5/5] last: done" in capsys.readouterr().out


@pytest.mark.parametrize("statuses, code", [((2, 2), 2), ((2, 1), 1), ((1,), 1)])
def test_the_exit_code_is_2_only_if_a_user_can_fix_every_failure(statuses, code):
    report = run([job(f"j{i}", f"sys.exit({status})") for i, status in enumerate(statuses)])
    assert report.exit_code == code


def test_a_command_that_cannot_be_started_or_leaves_no_file_has_failed():
    absent = Job(name="absent", command=("/no/such/program",), log=Path("a.log"), done=Path("a"))
    empty = Job(name="empty", command=(sys.executable, "-c", ""), log=Path("b.log"), done=Path("b"))
    report = run([absent, empty])
    assert "cannot be started" in report.failures["absent"].reason
    assert report.failures["empty"].reason == "ended well, but without b"
    assert report.exit_code == 1


def test_a_second_call_keeps_what_is_finished_and_calls_the_rest_again():
    bad = job("bad", "if not os.path.exists('mended'): sys.exit(1)")
    jobs = [job("good"), bad, job("checked", recheck=True), job("table", done=False)]
    assert run(jobs).failures["bad"].reason == "exit status 1: it printed nothing"
    Path("mended").touch()
    Path("order").unlink()
    report = run(jobs)
    assert report.kept == ["good"] and not report.failures
    assert order() == ["bad", "checked", "table"]


def test_a_killed_job_has_failed_and_resumes_from_its_files():
    code = (
        "import pathlib, signal; state = pathlib.Path('state'); begun = state.exists(); state.touch()\n"
        "if not begun: os.kill(os.getpid(), signal.SIGKILL)"
    )
    report = run([job("killed", code), job("other")])
    assert report.failures["killed"].reason.startswith("killed by signal 9") and report.failures["killed"].status == -9
    assert run([job("killed", code), job("other")]).kept == ["other"]
    assert order() == ["killed", "other", "killed"]


def test_jobs_get_one_thread_their_own_variables_and_the_log_holds_all_calls():
    code = "print('threads', os.environ['OMP_NUM_THREADS'], os.environ.get('MINE')); sys.exit(1)"
    plan = [job("one", code), job("three", code, threads=3, env={"MINE": "a b"})]
    run(plan), run(plan)
    assert Path("logs/one.log").read_text().count("threads 1 None") == 2
    assert Path("logs/three.log").read_text().count("threads 3 a b") == 2


def test_parallel_jobs_run_at_the_same_time():
    """Each of two jobs waits for the other's file: one after the other they would never end."""
    wait = "import time; open('here-{0}', 'w').close()\nwhile not os.path.exists('here-{1}'): time.sleep(0.01)"
    assert not run([job("a", wait.format("a", "b")), job("b", wait.format("b", "a"))], parallel=2).failures
    alone = (
        "assert not os.path.exists('busy'); open('busy', 'w').close(); import time; time.sleep(0.3); os.remove('busy')"
    )
    assert not run([job("c", alone), job("d", alone)], parallel=1).failures


@pytest.mark.parametrize("each, at_once", [(1, 2), (2, 4)])
def test_each_job_sees_one_gpu_and_the_others_wait_for_a_free_one(each, at_once, monkeypatch):
    """A fake list of devices: the jobs wait until as many run as there are places, and would never end with fewer."""
    code = """
import time
device = os.environ["CUDA_VISIBLE_DEVICES"]
mine = device + "-" + {0!r}
open("on-" + mine, "w").close()
open("came-" + {0!r}, "w").close()
while len([name for name in os.listdir(".") if name.startswith("came-")]) < {1}: time.sleep(0.01)
here = [name for name in os.listdir(".") if name.startswith("on-" + device + "-")]
open("seen", "a").write(device + " " + str(len(here)) + chr(10))
time.sleep(0.2)
os.remove("on-" + mine)
"""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "9")
    jobs = [job(f"j{i}", code.format(f"j{i}", at_once)) for i in range(6)]
    report = run(jobs, parallel=6, devices=Devices(("GPU-a", "5"), each))
    assert not report.failures
    seen = [line.split() for line in Path("seen").read_text().splitlines()]
    assert sorted({device for device, _ in seen}) == ["5", "GPU-a"]
    assert max(int(count) for _, count in seen) == each
    devices = [device for device, _ in seen]
    assert min(devices.count("5"), devices.count("GPU-a")) >= each, "the first ones are spread over both"


def test_a_job_without_a_gpus_work_takes_none_and_does_not_wait_for_one(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    wait = "import time\nwhile not os.path.exists('chosen'): time.sleep(0.01)"
    choose = "open('chosen', 'w').write(os.environ.get('CUDA_VISIBLE_DEVICES', 'all'))"
    jobs = [job("trains", wait), job("waits", wait), job("chooses", choose, uses_device=False)]
    assert not run(jobs, parallel=3, devices=Devices(("0",))).failures
    assert Path("chosen").read_text() == "all"


@pytest.mark.parametrize(
    "visible, given, expected",
    [
        (None, {}, ("0", "1")),
        ("3,MIG-x", {}, ("3", "MIG-x")),
        ("", {}, ()),
        (None, {"named": "1"}, ("1",)),
        (None, {"named": "none"}, ()),
        (None, {"device": "cpu"}, ()),
        (None, {"device": "cuda:1"}, ()),
    ],
)
def test_the_gpus_are_those_that_this_process_sees_or_those_that_are_named(visible, given, expected, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0 if visible == "" else 2)
    assert find_devices(**given).names == expected


def test_a_gpu_that_is_named_twice_is_refused():
    with pytest.raises(UserError, match="each GPU once"):
        find_devices("0,0")


def test_a_job_that_another_call_runs_is_not_started_twice():
    Path("logs").mkdir()
    with open("logs/busy.log", "a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        report = run([job("busy"), job("free")])
    assert report.failures["busy"].reason == "is already being run by another call" and order() == ["free"]


PLAN = """
import sys
from pathlib import Path
sys.path.insert(0, {repo!r})
from s3prl_pruned.command_line import command_line
from s3prl_pruned.config import UserError
from s3prl_pruned.plan.devices import Devices, find_devices
from s3prl_pruned.plan.jobs import Job
from s3prl_pruned.plan.run import run
child = '''
import os, signal, subprocess, sys, time
def stop(number, _):
    open("told", "a").write(str(number)); sys.exit(130)
if {obeys}: signal.signal({number}, stop)
else: signal.signal({number}, signal.SIG_IGN)
worker = subprocess.Popen(["sleep", "600"])
open("pids.part", "w").write(str(os.getpid()) + " " + str(worker.pid)); os.rename("pids.part", "pids")
while True: time.sleep(0.05)
'''
jobs = [
    Job(name=name, command=(sys.executable, "-c", child), log=Path(name + ".log"), done=Path(name))
    for name in ("first", "second")
]
command_line(lambda: run(jobs))
"""


def until(condition):
    """Wait for a condition that must become true; the deadline only ends a broken test."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    "number, obeys, code", [(signal.SIGINT, True, 130), (signal.SIGTERM, True, 75), (signal.SIGINT, False, 130)]
)
def test_a_signal_ends_the_children_and_theirs_and_a_second_one_kills(number, obeys, code):
    text = PLAN.format(repo=str(REPO), number=int(number), obeys=obeys)
    with subprocess.Popen([sys.executable, "-c", text], stderr=subprocess.PIPE, text=True) as process:
        until(Path("pids").exists)
        process.send_signal(number)
        if not obeys:
            time.sleep(0.5)
            assert process.poll() is None  # it waits for a child that saves
            process.send_signal(number)
        error = process.stderr.read()
    assert process.returncode == code
    assert "interrupted: jobs stopped: first. The same command goes on from there." in error
    until(lambda: all(gone(pid) for pid in Path("pids").read_text().split()))
    assert Path("told").exists() == obeys
    assert not Path("second.log").exists()
