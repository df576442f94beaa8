"""``result.json``, the result of a finished run: writing and reading."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.superb.catalogue import Value, find_task

RESULT_FILE = "result.json"
RUN_FILE = "run.json"
"""Written when one of our runs starts: a folder with it and without ``result.json`` is an unfinished run."""
INTERRUPTED = "interrupted.ckpt"
"""The checkpoint of a training that a signal stopped. Its name is not one of s3prl's, so that the training resumes from
it, but it is never evaluated as one of the checkpoints that the settings ask for."""


_NAMED_BEFORE = ("named by -e", "named by -i")
"""Rules of checkpoints that the user named, in results written before the field `Checkpoint.by_hand`."""


@dataclass(kw_only=True)
class Upstream:
    """The encoder whose features were used."""

    name: str
    """The upstream's name, s3prl's ``-u``."""
    sha256: str | None = None
    """SHA-256 of the model. None where there are no weights (FBANK) or it is unknown (s3prl's own runs)."""
    path: str | None = None
    num_parameters: int | None = None
    teacher_note: str | None = None
    """A note to show with every number of this model, such as "random teacher"."""
    settings: list[str] | None = None
    """Other options that decide its features, where not the default: ``-g`` and a hash, ``-s``, ``-f``, ... None in
    results written before this field."""

    def described(self) -> str:
        """The model in words: its hash, or its name, and its settings."""
        model = self.sha256 or f"no weights ({self.name})"
        return ", ".join([model, *(self.settings or [])])


@dataclass(kw_only=True)
class Checkpoint:
    """The evaluated weights of the downstream model, and how they were chosen."""

    file: str
    step: int
    rule: str
    dev: Value | None = None
    """The task's criterion on its development set at this checkpoint. None where the benchmark chooses without one (SV)
    or trains nothing, and in results written before this field existed."""
    sha256: str | None = None
    """SHA-256 of the file, where a task evaluates several checkpoints and may be resumed between them."""
    by_hand: bool = False
    """Whether the user named the checkpoint (``-i``, ``-e``) instead of following the benchmark's rule."""


@dataclass(kw_only=True)
class TriedRate:
    """One run of a learning-rate search."""

    learning_rate: float
    folder: str
    """The run's folder, relative to the folder of the result that lists the tried rates."""
    criterion: Value | None = None
    """The value by which the rate was chosen. None where training never improved on the start."""
    metrics: list[Value] | None = None
    """Metrics on the test split. None where the run was part of an earlier choice, not of this one."""
    chosen: bool = False


@dataclass(kw_only=True)
class SplitRead:
    """A split of the corpus that a run read."""

    key: str
    """s3prl's name of the split, such as ``test-clean``."""
    folder: str
    num_utterances: int
    sha256: str
    """SHA-256 of file names, sizes and transcripts."""


@dataclass(kw_only=True)
class Seconds:
    """Wall-clock time in seconds of the last call (without the first part of a resumed run)."""

    train: float | None = None
    evaluate: float


@dataclass(kw_only=True)
class Part:
    """One evaluation by s3prl's runner; some tasks need several (folds, layers, saved checkpoints)."""

    name: str
    """A name such as ``fold1``; empty where the task has only one part."""
    split: str
    num_utterances: int
    """Number of scored utterances."""
    metrics: list[Value]
    printed_by_s3prl: list[Value]
    rule: str | None = None
    """How the metrics were obtained from s3prl's files, where something was searched, such as a threshold."""
    checkpoint: Checkpoint | None = None
    seconds: Seconds


@dataclass(kw_only=True)
class Versions:
    """Versions of the installed software."""

    s3prl_pruned: str
    host: str = "s3prl"
    """The distribution that s3prl came from: s3prl (always, before this field existed) or espnet-s3prl."""
    s3prl: str
    """The host's version, as written in its metadata."""
    torch: str
    torchaudio: str
    python: str


@dataclass(kw_only=True)
class Result:
    """One task of one upstream, as written to ``result.json``."""

    task: str
    """The task's short name."""
    split: str
    """The evaluated split, s3prl's ``-t``."""
    num_utterances: int
    metrics: list[Value]
    """Metrics that we recomputed from s3prl's files."""
    printed_by_s3prl: list[Value]
    """Metrics read from s3prl's output. Its ``uer`` counts the separators between words as units."""
    rule: str | None = None
    """How the metrics were obtained from ``parts`` or by a search, such as "mean of 5 folds"; None where neither
    was needed."""
    parts: list[Part] | None = None
    """Every evaluation, where the task has several."""
    protocol: str
    """"official" if only paths and learning rate differ from the benchmark's, else "shortened" or another name."""
    protocol_note: str | None = None
    upstream: Upstream
    checkpoint: Checkpoint | None = None
    tried_rates: list[TriedRate] | None = None
    """All runs of a learning-rate search, where there was one. This result is of the chosen rate."""
    corpus: str | None = None
    splits: list[SplitRead] | None = None
    config_sha256: str | None = None
    """SHA-256 of all that decides the outcome besides upstream and corpus: settings, feature options, seed."""
    seed: int | None = None
    device: str | None = None
    command: str | None = None
    versions: Versions | None = None
    date: str | None = None
    """UTC, ISO 8601."""
    seconds: Seconds | None = None
    look: str | None = None
    """How far the training had come, if it was evaluated before its end: then this is no result of the task."""

    @property
    def by_hand(self) -> bool:
        """Whether the user named the evaluated checkpoint."""
        checkpoints = [self.checkpoint, *(part.checkpoint for part in self.parts or [])]
        return any(found is not None and (found.by_hand or found.rule in _NAMED_BEFORE) for found in checkpoints)

    def is_trained_to(self, total: int) -> bool:
        """Whether the evaluated checkpoint alone proves that training made this many steps.

        The best checkpoint is often of an earlier step, and proves nothing.
        """
        found = [part.checkpoint for part in self.parts or []] or [self.checkpoint]
        steps = [checkpoint.step if checkpoint else 0 for checkpoint in found]
        last = max if self.task == "sv" else min  # SV's parts are of one training; other tasks have one per part
        return last(steps) >= total

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
    """Write a JSON object (see ``write_text``)."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, under a temporary name first, so that no reader sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
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
        raise UserError(f"{path}: is not complete JSON ({error}). Remove it and run the task again.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: must hold a JSON object, but holds a {type(data).__name__}.")
    return data


def write_result(path: Path, result: Result) -> None:
    """Write a result, after the same checks as when reading it."""
    result.validate()
    write_json(path, to_dict(result))


def read_result(path: Path) -> Result:
    """Read a ``result.json`` of ours.

    Raises:
        UserError: on a half-written file, an unknown or missing key (such as a value without its unit), a value that is
            NaN or impossible in its unit, or a `RESULT_FILE` of another split or of an unfinished training.
    """
    result = from_dict(Result, read_json(path), str(path))
    if path.name == RESULT_FILE:
        _refuse_no_result(result, path)
    return result


def _refuse_no_result(result: Result, path: Path) -> None:
    """A `RESULT_FILE` counts in the score: it must be of the task's test split, and of a finished training."""
    test_split = find_task(result.task).test_split
    if result.split != test_split:
        raise UserError(
            f"{path}: must be of {test_split}, by which SUPERB scores {result.task}, but is of {result.split}. Name it "
            f"result-{result.split}.json, and run the task again."
        )
    if result.look:
        raise UserError(f"{path}: is no result: {result.look}, before its end. Remove it and resume the run (-a).")
