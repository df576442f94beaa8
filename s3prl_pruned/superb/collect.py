"""Find runs below a folder and read each: our ``result.json``, or s3prl's own ASR files without it."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.results import RESULT_FILE, RUN_FILE, Result, Upstream, error_rates, read_arks, read_result
from s3prl_pruned.superb.tasks import TASKS, Task

UNKNOWN_PROTOCOL = "unknown"
"""Of runs that s3prl itself made."""


def finished_runs(root: Path) -> tuple[dict[str, list[Result]], list[Path]]:
    """All results in a folder and down to two levels below it, in rows of one upstream each.

    Args:
        root: ``results/`` (rows of tasks), one row ``results/<upstream>/``, one run's folder, or s3prl's
            ``result/downstream/``. A folder with a task's name, ours or s3prl's, belongs to the row
            of its parent's name; a run in a folder of another name is a row of its own. What
            ``--force`` moved aside (``*.old-<number>``) is passed over.

    Returns:
        Results by row, and the folders of unfinished runs.

    Raises:
        UserError: if there is nothing, or a run cannot be read, or a task stands twice in a row.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder. Give the folder that run_downstream.py wrote, results/.")
    rows: dict[str, list[Result]] = {}
    unfinished = []
    for folder in [root, *sorted(root.glob("*/")), *sorted(root.glob("*/*/"))]:
        if not _holds_run(folder):
            continue
        task = _task_named(folder.resolve().name)
        result = read_run(folder, task)
        if result is None:
            unfinished.append(folder)
            continue
        row = rows.setdefault(folder.resolve().parent.name if task else folder.resolve().name, [])
        if any(other.task == result.task for other in row):
            raise UserError(f"{folder}: a second result of task {result.task} in one row. Keep one of them.")
        row.append(result)
    if not rows and not unfinished:
        raise UserError(
            f"{root}: holds no results, which are at <upstream>/<task>/{RESULT_FILE}. "
            "Run `python run_downstream.py -u wavlm_pruned -d asr` first."
        )
    for row in rows.values():
        row.sort(key=lambda result: list(TASKS).index(result.task))
    return rows, unfinished


def read_run(folder: Path, task: Task | None = None) -> Result | None:
    """The result of a run's folder: ours, or computed from s3prl's own ASR files.

    Args:
        task: which task it must be of; None where the folder's name does not say.

    Returns:
        None if the run is unfinished: begun by us without a result, or without test hypotheses.

    Raises:
        UserError: as ``read_result`` and ``read_arks``, or if the result is of another task.
    """
    if (folder / RESULT_FILE).is_file():
        result = read_result(folder / RESULT_FILE)
        if task is not None and result.task != task.name:
            raise UserError(
                f"{folder / RESULT_FILE}: is a result of task {result.task}, but its folder says {task.name}."
            )
        return result
    asr = TASKS["asr"]
    if (folder / RUN_FILE).is_file() or task not in (None, asr):
        return None
    if not any((folder / f"{asr.test_split}-noLM-{kind}.ark").is_file() for kind in ("hyp", "ref")):
        return None
    hypotheses, references = read_arks(folder, asr.test_split)
    return Result(
        task=asr.name,
        split=asr.test_split,
        num_utterances=len(references),
        metrics=error_rates(hypotheses, references),
        printed_by_s3prl=[],
        protocol=UNKNOWN_PROTOCOL,
        protocol_note="computed from s3prl's own run directory; its model and settings are not checked",
        upstream=Upstream(name=_upstream_of(folder) or folder.resolve().parent.name),
    )


def _holds_run(folder: Path) -> bool:
    if re.search(r"\.old-\d+$", folder.resolve().name):
        return False
    files = (RESULT_FILE, RUN_FILE, "*-hyp.ark", "*-ref.ark", "*.ckpt")
    return any(any(folder.glob(pattern)) for pattern in files)


def _task_named(name: str) -> Task | None:
    """The task of a folder's name; None for any other name, and for s3prl's ``ctc``, which serves two."""
    matches = [task for task in TASKS.values() if name in (task.name, task.downstream)]
    return matches[0] if len(matches) == 1 else None


def _upstream_of(folder: Path) -> str | None:
    """What s3prl's own ``args_*.yaml`` says of ``-u``."""
    for path in sorted(folder.glob("args_*.yaml"), reverse=True):
        try:
            name = yaml.safe_load(path.read_text(encoding="utf-8")).get("upstream")
        except (yaml.YAMLError, AttributeError, OSError, UnicodeDecodeError):
            continue  # somebody else's file: the folder's name serves as well
        if isinstance(name, str):
            return name
    return None
