"""A plan as job scripts: for a Slurm cluster, or for a plain shell. Nothing in them is of one site or machine.

One script per job, which does nothing if the job is finished, and stops if a job that it waits for is not. Scripts of
one level (`plan.levels`) are independent of one another; `<level>.txt` lists them.

- shell: `run_all.sh [N]` runs level after level, N scripts at a time.
- slurm: `submit.sh [OPTION ...]` submits each level as one job array that starts when the level before it has ended;
  options go to `sbatch` (partition, time, GPUs).
"""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from s3prl_pruned.config import UserError
from s3prl_pruned.plan.jobs import Job, levels

Scheduler = Literal["slurm", "shell"]

_RUN_ALL = """\
#!/usr/bin/env bash
# Run all jobs, level after level: run_all.sh [N], N at a time (default: 1). Finished jobs are kept.
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
status=0
for list in level-*.txt; do
    xargs -P "${1:-1}" -n 1 bash < "$list" || status=1
done
[ "$status" = 0 ] || echo "some jobs are not finished; the same call goes on with them" >&2
exit "$status"
"""

_SUBMIT = """\
#!/usr/bin/env bash
# Submit all jobs: submit.sh [OPTION ...], options for sbatch such as --partition=NAME --time=24:00:00 --gres=gpu:1.
# One array per level; a level starts when the one before it has ended, whatever came of it: each job checks for itself.
set -euo pipefail
cd "$(dirname "${{BASH_SOURCE[0]}}")"
previous=""
{levels}"""

_LEVEL = """\
previous=$(sbatch --parsable --job-name={name} --array=1-{count} --cpus-per-task={threads} \\
    --output="$PWD/slurm-%A_%a.out" ${{previous:+--dependency=afterany:$previous}} "$@" array.sh "$PWD" {list})
previous=${{previous%%;*}}  # the cluster's name may follow the number
echo "{list}: $previous"
"""

_ARRAY = """\
#!/usr/bin/env bash
# One element of an array: array.sh FOLDER LIST runs the script in the line of its number.
cd "$1" || exit 1
exec bash "$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$2")"
"""


def write_scripts(jobs: Sequence[Job], folder: Path, scheduler: Scheduler, *, name: str = "jobs") -> Path:
    """Write all scripts of a plan.

    Args:
        jobs: of the plan.
        folder: made by this call; what stands there already is not touched.
        scheduler: whose scripts.
        name: of the Slurm jobs.

    Returns:
        The script that runs or submits the others.

    Raises:
        UserError: the plan does not fit together, or the folder holds something.
    """
    steps = levels(jobs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"{folder}: must be a new or empty folder, but holds files. Give another by --jobs-dir.")
        by_name, numbers = {job.name: job for job in jobs}, {job.name: i for i, job in enumerate(jobs, start=1)}
        array_calls = []
        for number, step in enumerate(steps, start=1):
            scripts = [f"{numbers[job.name]:03d}-{re.sub(r'[^A-Za-z0-9.-]+', '_', job.name)}.sh" for job in step]
            for job, script in zip(step, scripts, strict=True):
                needed = [] if job.even_after_failure else [by_name[other] for other in job.after]
                (folder / script).write_bytes(os.fsencode(_script(job, needed)))  # names of files as they are
            listing = f"level-{number:02d}.txt"
            (folder / listing).write_text("".join(f"{script}\n" for script in scripts))
            threads = max(job.threads for job in step)
            array_calls.append(_LEVEL.format(name=shlex.quote(name), count=len(step), threads=threads, list=listing))
        if scheduler == "shell":
            main = folder / "run_all.sh"
            main.write_text(_RUN_ALL)
        else:
            main = folder / "submit.sh"
            (folder / "array.sh").write_text(_ARRAY)
            main.write_text(_SUBMIT.format(levels="".join(array_calls)))
    except OSError as error:
        raise UserError(f"{folder}: job scripts cannot be written ({error}).") from error
    return main


def _script(job: Job, needed: Sequence[Job]) -> str:
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
    log = quote(str(job.log))
    lines += [
        f"mkdir -p {quote(str(job.log.parent))} || exit 1",
        f"env {settings} {shlex.join(job.command)} >> {log} 2>&1",
        "status=$?",
        f"[ $status = 0 ] || echo {quote(f'{job.name}: failed, see {job.log}')} >&2",
    ]
    if job.done:
        complaint = quote(f"{job.name}: ended well, but without {job.done}")
        lines.append(f"[ $status != 0 ] || [ -e {quote(str(job.done))} ] || {{ echo {complaint} >&2; exit 1; }}")
    return "\n".join([*lines, "exit $status", ""])
