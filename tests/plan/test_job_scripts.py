"""Job scripts do what running the plan here does."""

import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.plan.job_scripts import write_scripts
from tests.planned_jobs import job

pytestmark = pytest.mark.usefixtures("folder")


AWKWARD = 'it\'s $HOME; `rm` "x" *'


def awkward_plan():
    """Names, arguments and variables that a shell would take apart."""
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
    assert (
        "bad: failed, see logs/bad.log" in first.stderr and "child: not run, since bad is not finished" in first.stderr
    )
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
    assert all(
        "--partition=gpu" in call and "--cpus-per-task=1" in call and "--job-name=superb" in call for call in calls
    )


def test_scripts_are_not_written_over_others():
    write_scripts([job("a")], Path("scripts"), "shell")
    with pytest.raises(UserError, match="must be a new or empty folder"):
        write_scripts([job("a")], Path("scripts"), "shell")
