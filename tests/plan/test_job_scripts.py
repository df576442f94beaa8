"""Job scripts do the same as running the plan here."""

import os
import shlex
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.plan.job_scripts import write_scripts
from tests.planned_jobs import job

pytestmark = pytest.mark.usefixtures("folder")


AWKWARD = 'it\'s $HOME; `rm` "x" *'


def awkward_plan():
    """Names, arguments and variables that a shell would split."""
    return [
        job(
            f"one/{AWKWARD}",
            "open('env', 'w').write(os.environ['MINE'])",
            log=Path("logs of it's") / "one.log",
            done=False,
            env={"MINE": AWKWARD},
        ),
        job("bad", "sys.exit(3)"),
        job("good"),
        job("child", after=("bad",)),
        job("grandchild", after=("good",)),
        job("table", done=False, after=("child", "grandchild"), even_after_failure=True),
    ]


def bash(script, *arguments, cwd="/", **environment):
    settings = {**os.environ, **environment}
    return subprocess.run(["bash", script, *arguments], capture_output=True, text=True, env=settings, cwd=cwd)


def names():
    return sorted(Path("order").read_text().replace(AWKWARD, "AWKWARD").split())


@pytest.mark.parametrize("at_a_time", ["1", "3"])
def test_shell_scripts_do_what_the_plan_does(folder, at_a_time):
    script = write_scripts(awkward_plan(), Path("scripts"), "shell").resolve()
    first = bash(script, at_a_time)
    assert first.returncode == 1, first.stderr
    assert names() == ["bad", "good", "grandchild", "one/AWKWARD", "table"]
    assert Path("env").read_text() == AWKWARD
    assert (
        "bad: failed, see logs/bad.log" in first.stderr and "child: not run, since bad is not finished" in first.stderr
    )
    Path("out/bad.json").touch()  # fixed
    Path("order").unlink()
    second = bash(script, at_a_time)
    assert second.returncode == 0, second.stderr
    assert names() == ["child", "one/AWKWARD", "table"]


def test_shell_scripts_distribute_jobs_over_the_named_gpus():
    note = "import time; open('seen', 'a').write(os.environ.get('CUDA_VISIBLE_DEVICES', 'all') + ' '); time.sleep(1)"
    script = write_scripts([job(name, note, done=False) for name in "ab"], Path("scripts"), "shell", devices=("4", "7"))
    for words, seen in [
        (["2"], ["4", "7"]),
        (["1"], ["4", "4"]),
        (["2", "5"], ["5", "5"]),
        (["2", ""], ["0", "0"]),
    ]:
        Path("seen").unlink(missing_ok=True)
        called = bash(script.resolve(), *words, CUDA_VISIBLE_DEVICES="0")
        assert called.returncode == 0 and sorted(Path("seen").read_text().split()) == seen, called.stderr


SBATCH = """#!/usr/bin/env bash
# Runs a script at once, as a cluster would later; prints its number and cluster.
printf '%s\\n' "$*" >> {record}
number=$(wc -l < {record})
SLURM_JOB_ID=$number bash "${{@: -1}}" >&2
echo "$number;cluster"
"""
SCONTROL = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> requeued
"""


def make_command(folder, name, text):
    commands = folder / "bin"
    commands.mkdir(exist_ok=True)
    (commands / name).write_text(text)
    (commands / name).chmod((commands / name).stat().st_mode | stat.S_IXUSR)
    return f"{commands}:{os.environ['PATH']}"


def submitted(folder, jobs, *options):
    """The calls of sbatch, by the name of the script."""
    record = folder / "record"
    path = make_command(folder, "sbatch", SBATCH.format(record=shlex.quote(str(record))))
    script = write_scripts(jobs, Path("scripts"), "slurm", name="superb").resolve()
    called = bash(script, *options, PATH=path)
    assert called.returncode == 0, called.stderr
    calls = record.read_text().splitlines()
    return {call.rpartition(" ")[2].partition("-")[2].removesuffix(".sh"): call for call in calls}


def dependency(call):
    found = [word for word in call.split() if word.startswith("--dependency=afterany:")]
    return [int(number) for word in found for number in word.split(":")[1:]]


def test_slurm_submits_each_job_with_only_its_own_dependencies(folder):
    calls = submitted(folder, awkward_plan(), "--partition=gpu")
    assert names() == ["bad", "good", "grandchild", "one/AWKWARD", "table"]
    numbers = {name: number for number, name in enumerate(calls, start=1)}  # in the order of the calls
    assert [dependency(calls[name]) for name in ("bad", "good")] == [[], []]
    assert dependency(calls["child"]) == [numbers["bad"]] and dependency(calls["grandchild"]) == [numbers["good"]]
    assert sorted(dependency(calls["table"])) == sorted([numbers["child"], numbers["grandchild"]])
    assert all("--partition=gpu" in call and "--job-name=superb" in call for call in calls.values())


def test_slurm_gets_the_resources_that_each_job_needs(folder):
    jobs = [
        job("reads", threads=2, workers=12, seconds=7200.0),
        job("chooses", uses_device=False),
    ]
    calls = submitted(folder, jobs)
    assert "--cpus-per-task=14 --gres=gpu:1 --time=190 " in calls["reads"]  # 1.5 times 120 minutes, and 10
    assert "--cpus-per-task=1 " in calls["chooses"] and "gres" not in calls["chooses"]
    assert "--time" not in calls["chooses"] and "--signal=B:USR1@300" in calls["chooses"]


def test_sbatch_that_refuses_stops_the_submission(folder):
    path = make_command(folder, "sbatch", "#!/usr/bin/env bash\necho no such partition >&2; exit 1\n")
    called = bash(write_scripts([job("a"), job("b")], Path("scripts"), "slurm").resolve(), PATH=path)
    assert called.returncode != 0 and called.stderr.count("no such partition") == 1


SAVES_WHEN_TOLD = """
import signal, time
def stop(number, _):
    open("saved", "w").write(str(number)); sys.exit(75)
if not os.path.exists("saved"):
    signal.signal(signal.SIGUSR1, stop); signal.signal(signal.SIGTERM, stop); open("ready", "w").close()
    while True: time.sleep(0.05)
"""


def stopped(folder, number):
    """The exit status of a slurm job's script after a signal."""
    path = make_command(folder, "scontrol", SCONTROL)
    write_scripts([job("long", SAVES_WHEN_TOLD)], Path("scripts"), "slurm")
    environment = {**os.environ, "PATH": path, "SLURM_JOB_ID": "7"}
    with subprocess.Popen(["bash", "scripts/001-long.sh"], env=environment) as process:
        deadline = time.monotonic() + 60
        while not Path("ready").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)  # to the script alone, as --signal=B: does
    assert Path("saved").read_text() == str(int(number)) and not Path("out/long.json").exists()
    return process.returncode


def test_a_slurm_job_that_gets_the_signal_saves_is_requeued_and_resumes(folder):
    assert stopped(folder, signal.SIGUSR1) == 0 and Path("requeued").read_text() == "requeue 7\n"
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    assert bash("scripts/001-long.sh", cwd=".", PATH=path, SLURM_JOB_ID="7").returncode == 0
    assert Path("out/long.json").exists() and Path("requeued").read_text().count("requeue") == 1


def test_a_slurm_job_that_is_cancelled_saves_and_stays_away(folder):
    assert stopped(folder, signal.SIGTERM) == 75 and not Path("requeued").exists()


def test_scripts_are_not_written_over_others():
    write_scripts([job("a")], Path("scripts"), "shell")
    with pytest.raises(UserError, match="must be a new or empty folder"):
        write_scripts([job("a")], Path("scripts"), "shell")
