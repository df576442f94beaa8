"""What a finished run leaves: our ``result.json``, and s3prl's own ASR files without it.

s3prl prints its test metrics and keeps no file of them. What it keeps for ASR are the hypotheses
and references, ``test-clean-noLM-{hyp,ref}.ark``, one ``utterance-id WORD WORD ...`` per line, from which
both error rates are computed here.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.superb.tasks import TASKS, Task, Value, find_task

RESULT_FILE = "result.json"
RUN_FILE = "run.json"
"""Written when one of our runs starts: with it and without ``result.json`` a run is unfinished."""
UNKNOWN_PROTOCOL = "unknown"
"""Of runs that s3prl itself made."""


@dataclass(kw_only=True)
class Upstream:
    """The encoder whose features were used."""

    name: str
    """s3prl's ``-u``."""
    sha256: str | None = None
    """Of the model. None where there are no weights (FBANK) or it is not known (s3prl's own runs)."""
    path: str | None = None
    num_parameters: int | None = None
    teacher_note: str | None = None
    """What must be said wherever a number of this model appears, such as "random teacher"."""


@dataclass(kw_only=True)
class Checkpoint:
    """Which weights of the downstream model were evaluated, and why these."""

    file: str
    step: int
    rule: str


@dataclass(kw_only=True)
class SplitRead:
    """One folder of the corpus that a run read."""

    key: str
    """s3prl's name of the split, such as ``test-clean``."""
    folder: str
    num_utterances: int
    sha256: str
    """Of file names, sizes and transcripts."""


@dataclass(kw_only=True)
class Seconds:
    """Wall-clock time of the last call (a resumed run's first part is not in it)."""

    train: float | None = None
    evaluate: float


@dataclass(kw_only=True)
class Versions:
    """What was installed."""

    s3prl_pruned: str
    s3prl: str
    torch: str
    torchaudio: str
    python: str


@dataclass(kw_only=True)
class Result:
    """One task of one upstream, as written to ``result.json``."""

    task: str
    """The short name."""
    split: str
    """s3prl's ``-t``."""
    num_utterances: int
    metrics: list[Value]
    """Recomputed by us from what s3prl kept."""
    printed_by_s3prl: list[Value]
    """Caught from its output. Its ``uer`` counts the separators between words as units."""
    protocol: str
    """"official" if nothing but paths and learning rate differ from the benchmark, else "shortened"
    or another name."""
    protocol_note: str | None = None
    upstream: Upstream
    checkpoint: Checkpoint | None = None
    corpus: str | None = None
    splits: list[SplitRead] | None = None
    config_sha256: str | None = None
    """Of what decides the outcome besides upstream and corpus: settings, feature options, seed."""
    seed: int | None = None
    device: str | None = None
    command: str | None = None
    versions: Versions | None = None
    date: str | None = None
    """UTC, ISO 8601."""
    seconds: Seconds | None = None

    def validate(self) -> None:
        """Refuse an unknown task and impossible values."""
        task = find_task(self.task)
        known = {metric.name: metric for metric in task.metrics}
        names = [value.name for value in self.metrics]
        for value in self.metrics:
            if names.count(value.name) > 1:
                raise UserError(f"metrics: {value.name} is given twice.")
            if value.name in known:
                known[value.name].check(value, "metrics")

    def values(self) -> dict[str, Value]:
        """The metrics by name."""
        return {value.name: value for value in self.metrics}


def write_json(path: Path, data: dict) -> None:
    """Write JSON under a temporary name first, so that a reader never meets half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error}).") from error


def read_json(path: Path) -> dict:
    """Read a JSON object.

    Raises:
        UserError: if the file is unreadable, half-written or no object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: is not complete JSON ({error}). Remove it and run the task again."
        ) from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: must hold a JSON object, but holds a {type(data).__name__}.")
    return data


def write_result(path: Path, result: Result) -> None:
    """Write a result, after the same checks as reading it."""
    result.validate()
    write_json(path, to_dict(result))


def read_result(path: Path) -> Result:
    """Read one of our ``result.json``.

    Raises:
        UserError: on a half-written file, an unknown or missing key (a value without its unit is
            one), a value that is NaN or impossible in its unit.
    """
    return from_dict(Result, read_json(path), str(path))


def read_run(folder: Path, task: Task) -> Result | None:
    """The result of a run's folder: ours, or computed from s3prl's own ASR files.

    Returns:
        None if the run is unfinished: begun by us without a result, or without test hypotheses.

    Raises:
        UserError: as ``read_result`` and ``read_arks``, or if the result is of another task.
    """
    if (folder / RESULT_FILE).is_file():
        result = read_result(folder / RESULT_FILE)
        if result.task != task.name:
            raise UserError(
                f"{folder / RESULT_FILE}: is a result of task {result.task}, but its folder says {task.name}."
            )
        return result
    if (folder / RUN_FILE).is_file() or task.name != "asr":
        return None
    arks = [folder / f"{task.test_split}-noLM-{kind}.ark" for kind in ("hyp", "ref")]
    if not any(path.is_file() for path in arks):
        return None
    hypotheses, references = read_arks(folder, task.test_split)
    return Result(
        task=task.name,
        split=task.test_split,
        num_utterances=len(references),
        metrics=error_rates(hypotheses, references),
        printed_by_s3prl=[],
        protocol=UNKNOWN_PROTOCOL,
        protocol_note="computed from s3prl's own run directory; its model and settings are not checked",
        upstream=Upstream(name=_upstream_of(folder) or folder.parent.name),
    )


def read_arks(folder: Path, split: str) -> tuple[dict[str, str], dict[str, str]]:
    """Hypotheses and references by utterance, as s3prl's ``asr`` wrote them without a language model.

    Raises:
        UserError: if one of the two is missing, empty, or they hold different utterances.
    """
    hypotheses, references = (_read_ark(folder / f"{split}-noLM-{kind}.ark") for kind in ("hyp", "ref"))
    if hypotheses.keys() != references.keys():
        alone = sorted(hypotheses.keys() ^ references.keys())
        raise UserError(
            f"{folder}: hypotheses and references of {split} must hold the same utterances, but "
            f"{len(alone)} stand in one of them only ({', '.join(alone[:3])}). Evaluate again."
        )
    return hypotheses, references


def error_rates(hypotheses: dict[str, str], references: dict[str, str]) -> list[Value]:
    """Word and character error rate over a test set, percent: edits over reference length.

    Characters include the single spaces between words. Both can exceed 100.

    Args:
        hypotheses, references: text by utterance, the same utterances.
    """
    import editdistance

    rates = []
    for name, units in (("wer", str.split), ("cer", list)):
        edits = sum(editdistance.eval(units(hypotheses[key]), units(references[key])) for key in references)
        length = sum(len(units(text)) for text in references.values())
        if length == 0:
            raise UserError(f"{name}: the references hold no words; there is nothing to score.")
        rates.append(Value(name=name, value=100.0 * edits / length, unit="percent"))
    return rates


def finished_runs(root: Path) -> tuple[dict[str, list[Result]], list[Path]]:
    """All results below a folder, in rows of one upstream each.

    Args:
        root: ``results/`` (rows of tasks), one row ``results/<upstream>/``, or one run's folder.
            A run's folder bears the task's short name or s3prl's; others are passed over.

    Returns:
        Results by row, and the folders of unfinished runs.

    Raises:
        UserError: if there is nothing, or a run cannot be read, or a task stands twice in a row.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder. Give the folder that run_downstream.py wrote, results/.")
    candidates = [root, *sorted(root.glob("*/")), *sorted(root.glob("*/*/"))]
    rows: dict[str, list[Result]] = {}
    unfinished = []
    for folder in candidates:
        task = _task_of(folder)
        if task is None:
            continue
        result = read_run(folder, task)
        if result is None:
            unfinished.append(folder)
            continue
        row = rows.setdefault(folder.resolve().parent.name, [])
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


def _task_of(folder: Path) -> Task | None:
    """The task that a folder's name says, if it holds a run at all."""
    holds_run = any(folder.glob("*.ark")) or any(folder.glob("*.ckpt"))
    if not (holds_run or (folder / RESULT_FILE).is_file() or (folder / RUN_FILE).is_file()):
        return None
    name = folder.resolve().name
    if name in TASKS:
        return TASKS[name]
    matches = [task for task in TASKS.values() if task.downstream == name]
    return matches[0] if len(matches) == 1 else None


def _read_ark(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Evaluate the run again.") from error
    texts = {}
    for line in lines:
        key, _, text = line.partition(" ")
        if not key or key in texts:
            raise UserError(f"{path}: every line must begin with another utterance's id, but has {line!r}.")
        texts[key] = text.strip()
    if not texts:
        raise UserError(f"{path}: is empty. Evaluate the run again.")
    return texts


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
