"""Find the runs below a folder and read each: our ``result.json``, or s3prl's own directories without it."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import TASKS, Task
from s3prl_pruned.superb.results.result import INTERRUPTED, RESULT_FILE, RUN_FILE, Result, Upstream, read_result
from s3prl_pruned.superb.results.s3prl_runs.files import captured_logs, read_settings, saved_steps
from s3prl_pruned.superb.results.s3prl_runs.found import NO_REFERENCES, TOLERANCE, References, Unfinished
from s3prl_pruned.superb.results.s3prl_runs.read import read_s3prl_run, task_of

logger = logging.getLogger(__name__)

UNKNOWN_PROTOCOL = "unknown"
"""The protocol of runs that s3prl itself made."""

SV_CHECKPOINTS = 10
"""The benchmark reports the lowest EER of this many checkpoints: one per 20,000 of 200,000 steps (s3prl's
``docs/superb.md``)."""

_RUN_FILES = (
    RESULT_FILE, RUN_FILE, "*.ckpt", "log.log", "args_*.yaml", "*-hyp.ark", "*-ref.ark", "benchmark.stdlist.xml",
    "score.out", "scoring/result_th*_med*", "scoring/predictions", "states-*/log.txt",
)  # fmt: skip
_PART = re.compile(r"(?P<run>.*?)[_-]?(?:fold[1-5]|-?\d+_(?:dev|test))$")
"""A directory of a run in several directories, named as in the benchmark's commands: ``ExpName_fold1``,
``ExpName_6_dev``."""


def finished_runs(root: Path, references: References = NO_REFERENCES) -> tuple[dict[str, list[Result]], list[Path]]:
    """All results in a folder and up to two levels below it, by model: each model is a row of the score table.

    Args:
        root: ``results/`` (models), one model's folder ``results/<upstream>/``, one run's folder, or s3prl's
            ``result/downstream/``. A folder with a task's name, ours or s3prl's, belongs to the model named like its
            parent folder; a run in a folder with another name is a model of its own. Folders that ``--force`` moved
            aside (``*.old-<number>``) are skipped. Directories of s3prl that together are one run (``ExpName_fold1`` to
            ``ExpName_fold5``; ``ExpName_6_dev``) are side by side, or in a folder with the task's name.
        references: where the references for scoring s3prl's QbE and SD are, if s3prl's settings do not say.

    Returns:
        Results by the model's name, and the folders of unfinished runs.

    Raises:
        UserError: if there are no results, or a run cannot be read, or a model has a task twice, or its runs name
            different upstreams.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder. Give the folder that run_downstream.py wrote, results/.")
    found: dict[str, list[Result]] = {}
    named: dict[str, tuple[Path, tuple[str | None, str | None]]] = {}
    unfinished = []
    for model, folders, task in _runs(root):
        result = read_run(folders, task, references)
        if result is None:
            unfinished += folders
            continue
        others = found.setdefault(model, [])
        if any(other.task == result.task for other in others):
            raise UserError(f"{folders[0]}: a second result of task {result.task} in one row. Keep one of them.")
        others.append(result)
        if result.protocol == UNKNOWN_PROTOCOL:
            _refuse_another_upstream(folders, named, model)
    if not found and not unfinished:
        raise UserError(
            f"{root}: holds no results, which are at <upstream>/<task>/{RESULT_FILE}. "
            "Run `python run_downstream.py -u wavlm_pruned -d asr` first."
        )
    for results in found.values():
        results.sort(key=lambda result: list(TASKS).index(result.task))
    return found, unfinished


def folders_of(root: Path) -> dict[str, dict[str, list[Path]]]:
    """The folders of the finished runs that ``finished_runs`` reads, by model, and by the task's short name."""
    found: dict[str, dict[str, list[Path]]] = {}
    for model, folders, task in _runs(root):
        task = task or next((by_files for folder in folders if (by_files := task_of(folder))), None)
        if (folders[0] / RESULT_FILE).is_file():
            found.setdefault(model, {})[read_result(folders[0] / RESULT_FILE).task] = folders
        elif task is not None and not (folders[0] / RUN_FILE).is_file():
            found.setdefault(model, {})[task.name] = folders
    return found


def read_run(folders: list[Path], task: Task | None = None, references: References = NO_REFERENCES) -> Result | None:
    """The result of a run's folder: ours, or computed from s3prl's own files.

    Args:
        folders: one folder, or several that together are one run.
        task: the task that the run must be of; None where the folder's name does not say.
        references: as in ``finished_runs``.

    Returns:
        None if the run is unfinished: started by us without a result, or not fully evaluated by s3prl.

    Raises:
        UserError: as in ``read_result`` and ``read_s3prl_run``, or if the result is of another task.
    """
    folder = folders[0]
    if (folder / RESULT_FILE).is_file():
        result = read_result(folder / RESULT_FILE)
        if task is not None and result.task != task.name:
            raise UserError(
                f"{folder / RESULT_FILE}: is a result of task {result.task}, but its folder says {task.name}."
            )
        _refuse_contradiction(result, folder / RESULT_FILE)
        if progress := _where_unfinished(folder, result):
            logger.warning("%s: not counted: its training is at %s and is not finished.", folder, progress)
            return None
        return _as_it_counts(result)
    if (folder / RUN_FILE).is_file():
        return None
    known = {by_files.name for path in folders if (by_files := task_of(path))}
    if task is not None and known - {task.name}:
        raise UserError(f"{folder}: is a run of task {', '.join(sorted(known))}, but its folder says {task.name}.")
    if task is None and len(known) != 1:
        logger.warning(
            "%s: not counted: neither its name nor its args_*.yaml says which task of SUPERB it is of.", folder
        )
        return None
    task = task or TASKS[known.pop()]
    try:
        found = read_s3prl_run(folders, task, references)
    except Unfinished as reason:
        logger.warning("%s: not counted: %s", folder, reason)
        return None
    settings = read_settings(folder)
    return Result(
        task=task.name,
        split=task.test_split,
        num_utterances=found.num_utterances,
        metrics=found.metrics,
        printed_by_s3prl=[],
        protocol=UNKNOWN_PROTOCOL,
        protocol_note=f"computed from s3prl's own run directory ({found.note}); its model and settings are not checked",
        upstream=Upstream(name=settings.upstream or folder.resolve().parent.name, path=settings.checkpoint),
    )


def _where_unfinished(folder: Path, result: Result) -> str | None:
    """How far an unfinished training has come whose result an earlier version wrote; None if it is finished."""
    for trained in [folder, *folder.glob("fold[1-5]")]:
        newest, interrupted = max(saved_steps(trained), default=0), (trained / INTERRUPTED).is_file()
        known = newest or interrupted
        total = (read_settings(trained).config.get("runner") or {}).get("total_steps") if known else None
        if isinstance(total, int) and newest < total and not result.is_trained_to(total):
            return f"{INTERRUPTED}, after step {newest}," if interrupted else f"step {newest}"
    return None


def _as_it_counts(result: Result) -> Result:
    """Correct the protocol of earlier versions' results that do not follow the benchmark's rule for the checkpoint."""
    if result.protocol != "official":
        return result
    if result.by_hand and result.checkpoint is not None:
        difference = f"the checkpoint, {result.checkpoint.rule}"
    elif result.task == "sv" and result.parts and len(result.parts) != SV_CHECKPOINTS:
        difference = f"runner.save_step: {len(result.parts)} checkpoints were tested in place of {SV_CHECKPOINTS}"
    else:
        return result
    return replace(result, protocol="custom", protocol_note=f"differs from the benchmark in {difference}")


def _runs(root: Path) -> list[tuple[str, list[Path], Task | None]]:
    """Model, folders and task of every run; the folders below a run are not searched."""
    runs: dict[tuple[str, str], tuple[str, list[Path], Task | None]] = {}
    below: list[Path] = []
    for folder in [root, *sorted(root.glob("*/")), *sorted(root.glob("*/*/"))]:
        name, parent = folder.resolve().name, folder.resolve().parent
        if re.search(r"\.old-\d+$", name) or any(run in folder.parents for run in below):
            continue
        task = _task_named(name)
        if _holds_run(folder) or (task and captured_logs(folder)):
            if task or _is_ours(folder) or task_of(folder):
                below.append(folder)
            part = None if task or _is_ours(folder) else _PART.fullmatch(name)
            if part:
                run = part["run"] or parent.name
                model = parent.name if _task_named(run) or not part["run"] else run
                runs.setdefault((str(parent), run), (model, [], _task_named(run)))[1].append(folder)
            else:
                runs[str(parent), name] = (parent.name if task else name, [folder], task)
        elif task and (parts := _parts_of_s3prl(folder)):
            below.append(folder)
            runs[str(parent), name] = (parent.name, parts, task)
    return list(runs.values())


def _parts_of_s3prl(folder: Path) -> list[Path]:
    """The directories of s3prl in a task's folder that together are one run."""
    return [path for path in sorted(folder.glob("*/")) if _holds_run(path) and not _is_ours(path)]


def _holds_run(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in _RUN_FILES)


def _is_ours(folder: Path) -> bool:
    return (folder / RESULT_FILE).is_file() or (folder / RUN_FILE).is_file()


def _task_named(name: str) -> Task | None:
    """The task that a folder's name means; None for any other name, and for s3prl's ``ctc``, which serves two tasks."""
    matches = [task for task in TASKS.values() if name in (task.name, task.downstream)]
    return matches[0] if len(matches) == 1 else None


def _refuse_contradiction(result: Result, path: Path) -> None:
    """A result must hold one of its task's metrics, and the value that s3prl printed must be the same number."""
    values = result.values()
    if not any(metric.name in values for metric in TASKS[result.task].metrics):
        names = " or ".join(metric.name for metric in TASKS[result.task].metrics)
        raise UserError(
            f"{path}: metrics must hold {names}, but hold {', '.join(values) or 'nothing'}. Run the task again."
        )
    for printed in result.printed_by_s3prl:
        ours = values.get(printed.name)
        if ours is not None and not abs(ours.percent - printed.percent) <= 10 * TOLERANCE:
            raise UserError(
                f"{path}: {printed.name} is {ours.value:g} {ours.unit}, but s3prl printed {printed.value:g} "
                f"{printed.unit}. They are from two evaluations; run the task again."
            )


def _refuse_another_upstream(
    folders: list[Path], named: dict[str, tuple[Path, tuple[str | None, str | None]]], name: str
) -> None:
    """s3prl's directories hold no hash of the model, but usually the values of -u and -k."""
    for folder in folders:
        settings = read_settings(folder)
        if settings.upstream is None:
            continue
        other, model = named.setdefault(name, (folder, (settings.upstream, settings.checkpoint)))
        if model != (settings.upstream, settings.checkpoint):
            raise UserError(
                f"{name}: one row must be one model, but {other} is of {_model(*model)} and {folder} of "
                f"{_model(settings.upstream, settings.checkpoint)}. Move one of them into another folder."
            )


def _model(upstream: str | None, checkpoint: str | None) -> str:
    return f"-u {upstream}" + (f" -k {checkpoint}" if checkpoint else "")
