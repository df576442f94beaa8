"""The planner: order, failures, restarts, stops, and the scripts that it writes, which are really run."""

import fcntl
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.measure.job_scripts import write_scripts
from s3prl_pruned.measure.plan import Job, duration, levels, remaining_seconds
from s3prl_pruned.measure.run_plan import run

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job(name, code=None, *, done=True, **fields):
    """A job that notes its name in `order`, runs `code`, and writes its file."""
    path = Path("out") / f"{name}.json"
    body = f"import os, sys; open('order', 'a').write({name + ' '!r})\n{code or ''}\n"
    body += f"os.makedirs('out', exist_ok=True); open({str(path)!r}, 'w').close()" if done else ""
    fields = {"log": Path("logs") / f"{name}.log", "done": path if done else None, **fields}
    return Job(name=name, command=(sys.executable, "-c", body), **fields)


def order():
    return Path("order").read_text().split()


def test_jobs_run_in_the_plans_order_and_after_what_they_wait_for():
    report = run([job("c", after=("b",)), job("a"), job("b")])
    assert order() == ["a", "b", "c"]
    assert report.exit_code == 0 and not report.failures and set(report.seconds) == {"a", "b", "c"}


def test_progress_tells_how_many_ended_and_what_is_left(capsys):
    run([job("a", seconds=100), job("b", "import time; time.sleep(0.2)", seconds=100)])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "[0/2, about 3 min left] a: started" and shown[1].startswith("[1/2, about 0 s left] a: done in 0 s")
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
def test_the_exit_code_is_2_only_if_a_user_can_mend_every_failure(statuses, code):
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


def test_a_killed_job_has_failed_and_goes_on_with_what_it_left():
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


def test_so_many_at_a_time():
    """Each of two waits for the other's sign: one after the other they would never end."""
    wait = "import time; open('here-{0}', 'w').close()\nwhile not os.path.exists('here-{1}'): time.sleep(0.01)"
    assert not run([job("a", wait.format("a", "b")), job("b", wait.format("b", "a"))], parallel=2).failures
    alone = "assert not os.path.exists('busy'); open('busy', 'w').close(); import time; time.sleep(0.3); os.remove('busy')"
    assert not run([job("c", alone), job("d", alone)], parallel=1).failures


def test_a_job_that_another_call_runs_is_not_started_twice():
    Path("logs").mkdir()
    with open("logs/busy.log", "a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        report = run([job("busy"), job("free")])
    assert report.failures["busy"].reason == "is being run already, by another call" and order() == ["free"]


@pytest.mark.parametrize(
    "jobs, complaint",
    [
        (lambda: [job("a"), job("a")], "name must differ between jobs, but 'a'"),
        (lambda: [job("a"), job("b", done=False), job("c", after=("b",))], "waits for 'b', of which no file"),
        (lambda: [job("a", after=("z",))], "a waits for 'z', which is not in the plan"),
        (lambda: [job("a", after=("b",)), job("b", after=("a",))], "in a circle"),
    ],
)
def test_a_plan_that_does_not_fit_together_is_refused_before_anything_runs(jobs, complaint):
    with pytest.raises(UserError, match=complaint):
        run(jobs())
    assert not Path("order").exists()


def test_two_jobs_that_would_write_one_file_are_refused():
    one = job("one")
    with pytest.raises(UserError, match="done must differ"):
        levels([one, job("two", done=False), Job(name="other", command=("x",), log=Path("l"), done=one.done)])


PLAN = """
import sys
from pathlib import Path
sys.path.insert(0, {repo!r})
from s3prl_pruned.command_line import command_line
from s3prl_pruned.measure.plan import Job
from s3prl_pruned.measure.run_plan import run
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
jobs = [Job(name=n, command=(sys.executable, "-c", child), log=Path(n + ".log"), done=Path(n)) for n in ("first", "second")]
command_line(lambda: run(jobs))
"""


def until(condition):
    """Wait for what must come; the deadline only ends a broken test."""
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


def test_remaining_time_follows_what_the_finished_ones_took():
    slow, fast, unknown = (Job(name=n, command=(), log=Path("l"), seconds=s) for n, s in (("s", 100), ("f", 10), ("u", None)))
    assert remaining_seconds([(slow, 0), (fast, 0)], [], parallel=1) == 110
    assert remaining_seconds([(slow, 40), (fast, 0)], [(fast, 20)], parallel=1) == 160 + 20  # twice the estimate
    assert remaining_seconds([(slow, 0), (fast, 0)], [], parallel=2) == 100  # not less than the longest
    assert remaining_seconds([(unknown, 5)], [(slow, 60), (slow, 20)], parallel=1) == 35
    assert remaining_seconds([(unknown, 0)], [], parallel=1) is None
    assert remaining_seconds([(fast, 99)], [], parallel=1) == 0
    assert [duration(s) for s in (45, 720, 11100, 187200)] == ["45 s", "12 min", "3 h 5 min", "2 d 4 h"]


AWKWARD = "it's $HOME; `rm` \"x\" *"


def awkward_plan():
    """Names, arguments and variables that a shell would take apart."""
    return [
        job(f"one/{AWKWARD}", "open('env', 'w').write(os.environ['MINE'])", log=Path("logs of it's") / "one.log", done=False,
            env={"MINE": AWKWARD}),
        job("bad", "sys.exit(3)"),
        job("good"),
        job("child", after=("bad",)),
        job("grandchild", after=("good",)),
        job("table", done=False, after=("child", "grandchild"), even_after_failure=True),
    ]  # fmt: skip


def bash(script, *arguments, **environment):
    settings = {**os.environ, **environment}
    return subprocess.run(["bash", script, *arguments], capture_output=True, text=True, env=settings, cwd="/")


def names():
    return sorted(Path("order").read_text().replace(AWKWARD, "AWKWARD").split())


@pytest.mark.parametrize("at_a_time", ["1", "3"])
def test_shell_scripts_do_what_the_plan_does(folder, at_a_time):
    script = write_scripts(awkward_plan(), Path("scripts"), "shell").resolve()
    first = bash(script, at_a_time)
    assert first.returncode == 1, first.stderr
    assert names() == ["bad", "good", "grandchild", "one/AWKWARD", "table"]
    assert Path("env").read_text() == AWKWARD
    assert "bad: failed, see logs/bad.log" in first.stderr and "child: not run, since bad is not finished" in first.stderr
    Path("out/bad.json").touch()  # mended
    Path("order").unlink()
    second = bash(script, at_a_time)
    assert second.returncode == 0, second.stderr
    assert names() == ["child", "one/AWKWARD", "table"]


SBATCH = """#!/usr/bin/env bash
# Runs an array at once, as a cluster would later; prints its number and cluster.
printf '%s\\n' "$*" >> {record}
while [[ "$1" == --* || "$1" == -* ]]; do
    case "$1" in --array=1-*) count="${{1#--array=1-}}";; esac
    shift
done
for i in $(seq "$count"); do SLURM_ARRAY_TASK_ID=$i bash "$@" >&2; done
echo "$(wc -l < {record});cluster"
"""


def test_slurm_scripts_submit_an_array_per_level_each_after_the_one_before(folder):
    commands = folder / "bin"
    commands.mkdir()
    sbatch, record = commands / "sbatch", folder / "record"
    sbatch.write_text(SBATCH.format(record=shlex.quote(str(record))))
    sbatch.chmod(sbatch.stat().st_mode | stat.S_IXUSR)
    script = write_scripts(awkward_plan(), Path("scripts"), "slurm", name="superb").resolve()
    called = bash(script, "--partition=gpu", PATH=f"{commands}:{os.environ['PATH']}")
    assert called.returncode == 0, called.stderr
    assert names() == ["bad", "good", "grandchild", "one/AWKWARD", "table"]
    calls = record.read_text().splitlines()
    assert [f"--array=1-{n}" in call for n, call in zip((3, 2, 1), calls)] == [True] * 3 and len(calls) == 3
    assert "--dependency" not in calls[0]
    assert "--dependency=afterany:1 " in calls[1] and "--dependency=afterany:2 " in calls[2]
    assert all("--partition=gpu" in call and "--cpus-per-task=1" in call and "--job-name=superb" in call for call in calls)


def test_scripts_are_not_written_over_others():
    write_scripts([job("a")], Path("scripts"), "shell")
    with pytest.raises(UserError, match="must be a new or empty folder"):
        write_scripts([job("a")], Path("scripts"), "shell")
