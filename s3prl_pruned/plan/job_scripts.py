"""A plan as job scripts: for a Slurm cluster, or for a plain shell. Nothing in them is specific to a site or machine.

There is one script per job. It does nothing if the job is finished, and stops if a job that it waits for is not.

- shell: `run_all.sh [N [GPU,GPU]]` runs level after level (`plan.levels`, listed in `level-<n>.txt`), N scripts at a
  time, each of which sees one of the GPUs.
- slurm: `submit.sh [OPTION ...]` submits each script, to start when those that it waits for have ended, with the cores,
  GPU and time that its job needs; options are passed to `sbatch` (partition, account) and take precedence. Before its
  time limit a job gets a signal, saves, and is requeued, to be resumed.
"""

import math
import os
import re
import shlex
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from s3prl_pruned.command_line import STOP_SIGNALS
from s3prl_pruned.config import UserError
from s3prl_pruned.plan.jobs import Job, levels

Scheduler = Literal["slurm", "shell"]

_RUN_ALL = """\
#!/usr/bin/env bash
# Run all jobs, level after level: run_all.sh [N [GPU,GPU]], N at a time (default: 1), each on one of the GPUs.
# If no GPU is named (run_all.sh N ""), every job sees all of them. Finished jobs are not run again.
cd "$(dirname "${{BASH_SOURCE[0]}}")" || exit 1
gpus=${{2-{gpus}}}
run='[ -z "$0" ] || {{ IFS=, read -ra gpus <<< "$0"; export CUDA_VISIBLE_DEVICES="${{gpus[PLACE % ${{#gpus[@]}}]}}"; }}
exec bash "$1"'
status=0
for list in level-*.txt; do
    xargs -P "${{1:-1}}" -n 1 ${{gpus:+--process-slot-var=PLACE}} bash -c "$run" "$gpus" < "$list" || status=1
done
[ "$status" = 0 ] || echo "some jobs are not finished; the same call resumes them" >&2
exit "$status"
"""

_SUBMIT = """\
#!/usr/bin/env bash
# Submit all jobs: submit.sh [OPTION ...], options for sbatch such as --partition=NAME --account=NAME.
# A job starts when those that it waits for have ended, even if they failed: each script checks that itself.
set -euo pipefail
cd "$(dirname "${{BASH_SOURCE[0]}}")"
options=("$@")
submit() {{  # SCRIPT NUMBERS [OPTION ...]: NUMBERS, each after a colon, are the jobs that it waits for
    local script=$1 after=$2 number
    shift 2
    number=$(sbatch --parsable --job-name={name} --output="$PWD/slurm-%j.out" --open-mode=append --requeue \\
        --signal=B:USR1@{notice} ${{after:+--dependency=afterany$after}} "$@" \\
        ${{options[@]+"${{options[@]}}"}} "$script") || exit 1
    number=${{number%%;*}}  # the cluster's name may follow the number
    echo "$script: $number" >&2
    echo "$number"
}}
{calls}"""

NOTICE_SECONDS = 300
"""A Slurm job gets a signal to save this long before its time limit: a step and an evaluation on dev may be running."""

_RUN_AND_REQUEUE = """\
tell() {{ kill -s "$1" "$child"; }}
told=
trap 'told=yes; tell USR1' USR1
trap 'tell TERM' TERM
{command} &
child=$!
wait "$child"; status=$?
while kill -0 "$child" 2> /dev/null; do wait "$child"; status=$?; done  # a signal ends `wait`, not the command
# After another signal, such as from scancel, the job is not requeued.
[ "$told" ] && [ $status = {requeue} ] && scontrol requeue "$SLURM_JOB_ID" && exit 0"""


def write_scripts(
    jobs: Sequence[Job], folder: Path, scheduler: Scheduler, *, name: str = "jobs", devices: Sequence[str] = ()
) -> Path:
    """Write all scripts of a plan.

    Args:
        jobs: the plan's jobs.
        folder: a new or empty folder; made by this call.
        scheduler: the scheduler to write scripts for.
        name: name of the Slurm jobs.
        devices: GPUs over which `run_all.sh` distributes jobs; Slurm gives each job its own.

    Returns:
        The script that runs or submits the others.

    Raises:
        UserError: if the plan is inconsistent, or the folder is not empty.
    """
    steps = levels(jobs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"{folder}: must be a new or empty folder, but holds files. Give another by --jobs-dir.")
        by_name = {job.name: job for job in jobs}
        scripts = {
            job.name: f"{number:03d}-{re.sub(r'[^A-Za-z0-9.-]+', '_', job.name)}.sh"
            for number, job in enumerate(jobs, start=1)
        }
        for job in jobs:
            needed = [] if job.even_after_failure else [by_name[other] for other in job.after]
            text = _script(job, needed, scheduler)
            (folder / scripts[job.name]).write_bytes(os.fsencode(text))  # bytes of file names unchanged
        if scheduler == "shell":
            main = folder / "run_all.sh"
            main.write_text(_RUN_ALL.format(gpus=shlex.quote(",".join(devices))))
            for number, step in enumerate(steps, start=1):
                (folder / f"level-{number:02d}.txt").write_text("".join(f"{scripts[job.name]}\n" for job in step))
        else:
            main = folder / "submit.sh"
            calls = "".join(_submit_call(job, scripts) for step in steps for job in step)
            main.write_text(_SUBMIT.format(name=shlex.quote(name), notice=NOTICE_SECONDS, calls=calls))
    except OSError as error:
        raise UserError(f"{folder}: job scripts cannot be written ({error}).") from error
    return main


def _submit_call(job: Job, scripts: Mapping[str, str]) -> str:
    """The line that submits a job, and stores its number for the jobs that wait for it."""
    after = "".join(f":${_variable(scripts[other])}" for other in job.after)
    options = [f"--cpus-per-task={job.threads + job.workers}"]
    if job.uses_device:
        options.append("--gres=gpu:1")
    if job.seconds:
        options.append(f"--time={minutes_for(job.seconds)}")
    script = scripts[job.name]
    return f'{_variable(script)}=$(submit {script} "{after}" {" ".join(options)})\n'


def minutes_for(seconds: float) -> int:
    """The time limit in minutes for an estimated duration: half as much again, plus ten minutes for the start."""
    return math.ceil(1.5 * seconds / 60) + 10


def _variable(script: str) -> str:
    return f"job{script.partition('-')[0]}"


def _script(job: Job, needed: Sequence[Job], scheduler: Scheduler) -> str:
    quote = shlex.quote
    settings = " ".join(f"{name}={quote(value)}" for name, value in job.settings.items())
    lines = [
        "#!/usr/bin/env bash",
        f"# {' '.join(job.name.split())}",
        f"cd {quote(str(Path.cwd()))} || exit 1",
    ]
    if job.done and not job.recheck:
        lines.append(f"[ -e {quote(str(job.done))} ] && exit 0")
    for other in needed:
        complaint = quote(f"{job.name}: not run, since {other.name} is not finished")
        lines.append(f"[ -e {quote(str(other.done))} ] || {{ echo {complaint} >&2; exit 1; }}")
    command = f"env {settings} {shlex.join(job.command)} >> {quote(str(job.log))} 2>&1"
    lines.append(f"mkdir -p {quote(str(job.log.parent))} || exit 1")
    if scheduler == "slurm":
        lines.append(_RUN_AND_REQUEUE.format(command=command, requeue=STOP_SIGNALS[signal.SIGUSR1]))
    else:
        lines += [command, "status=$?"]
    lines.append(f"[ $status = 0 ] || echo {quote(f'{job.name}: failed, see {job.log}')} >&2")
    if job.done:
        complaint = quote(f"{job.name}: ended well, but without {job.done}")
        lines.append(f"[ $status != 0 ] || [ -e {quote(str(job.done))} ] || {{ echo {complaint} >&2; exit 1; }}")
    return "\n".join([*lines, "exit $status", ""])
