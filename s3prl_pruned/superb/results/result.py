"""``result.json``: what a finished run leaves, written and read."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.superb.catalogue import Value, find_task

RESULT_FILE = "result.json"
RUN_FILE = "run.json"
"""Written when one of our runs starts: with it and without ``result.json`` a run is unfinished."""
INTERRUPTED = "interrupted.ckpt"
"""The step after which a signal stopped a training. Its name is none of s3prl's, so that it is gone on from, and never
evaluated as one of the checkpoints that the settings ask for."""


_NAMED_BEFORE = ("named by -e", "named by -i")
"""Rules of checkpoints that were named, in results written before `Checkpoint.by_hand`."""


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
    settings: list[str] | None = None
    """What else decides its features, where it is not as usual, as options: ``-g`` and a hash, ``-s``, ``-f``, ... None
    in results written before this field."""

    def described(self) -> str:
        """Which model it is, in words: its hash, or its name, and its settings."""
        model = self.sha256 or f"no weights ({self.name})"
        return ", ".join([model, *(self.settings or [])])


@dataclass(kw_only=True)
class Checkpoint:
    """Which weights of the downstream model were evaluated, and why these."""

    file: str
    step: int
    rule: str
    dev: Value | None = None
    """The task's criterion on its development set at this checkpoint. None where the benchmark chooses without one (SV)
    or trains nothing, and in results written before this field."""
    sha256: str | None = None
    """Of the file, where a task evaluates several and goes on after an interruption."""
    by_hand: bool = False
    """Whether the user named it (``-i``, ``-e``), in place of the benchmark's rule."""


@dataclass(kw_only=True)
class TriedRate:
    """One run of a learning-rate search."""

    learning_rate: float
    folder: str
    """Of the run, relative to the folder of the result that says what was tried."""
    criterion: Value | None = None
    """What the choice was made by. None where training never got better than at the start."""
    metrics: list[Value] | None = None
    """On the test split. None where the run was not part of this choice, but of an earlier one."""
    chosen: bool = False


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
class Part:
    """One evaluation by s3prl's runner; some tasks need several (folds, layers, saved checkpoints)."""

    name: str
    """Such as ``fold1``; empty where the task has only one."""
    split: str
    num_utterances: int
    """How many were scored."""
    metrics: list[Value]
    printed_by_s3prl: list[Value]
    rule: str | None = None
    """How the metrics came of what s3prl kept, where something was searched, such as a threshold."""
    checkpoint: Checkpoint | None = None
    seconds: Seconds


@dataclass(kw_only=True)
class Versions:
    """What was installed."""

    s3prl_pruned: str
    host: str = "s3prl"
    """The distribution that s3prl came from: s3prl, which it always was before this field, or espnet-s3prl."""
    s3prl: str
    """The host's version, as its metadata spell it."""
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
    rule: str | None = None
    """How the metrics came of ``parts`` or of a search, such as "mean of 5 folds"; None where there is nothing to
    say."""
    parts: list[Part] | None = None
    """Every evaluation, where the task has several."""
    protocol: str
    """"official" if nothing but paths and learning rate differ from the benchmark, else "shortened" or another name."""
    protocol_note: str | None = None
    upstream: Upstream
    checkpoint: Checkpoint | None = None
    tried_rates: list[TriedRate] | None = None
    """Where a learning rate was searched: every run of it. This result is then the chosen one's."""
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
    look: str | None = None
    """Where the training stood, if this was evaluated before its end: then it is no result of the task."""

    @property
    def by_hand(self) -> bool:
        """Whether a user named a checkpoint that this is of."""
        checkpoints = [self.checkpoint, *(part.checkpoint for part in self.parts or [])]
        return any(found is not None and (found.by_hand or found.rule in _NAMED_BEFORE) for found in checkpoints)

    def is_trained_to(self, total: int) -> bool:
        """Whether what was evaluated shows by itself that the training made this many steps.

        A best checkpoint is often of an earlier step, and shows nothing.
        """
        found = [part.checkpoint for part in self.parts or []] or [self.checkpoint]
        steps = [checkpoint.step if checkpoint else 0 for checkpoint in found]
        last = max if self.task == "sv" else min  # its parts are of one training; others have one for each part
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
    """Write a text under a temporary name first, so that a reader never meets half of it."""
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
    """Write a result, after the same checks as reading it."""
    result.validate()
    write_json(path, to_dict(result))


def read_result(path: Path) -> Result:
    """Read one of our ``result.json``.

    Raises:
        UserError: on a half-written file, an unknown or missing key (a value without its unit is one), a value that is
            NaN or impossible in its unit, or a `RESULT_FILE` that is of another split or a look.
    """
    result = from_dict(Result, read_json(path), str(path))
    if path.name == RESULT_FILE:
        _refuse_no_result(result, path)
    return result


def _refuse_no_result(result: Result, path: Path) -> None:
    """What is called `RESULT_FILE` counts: it must be of the task's test split, and of a training at its end."""
    test_split = find_task(result.task).test_split
    if result.split != test_split:
        raise UserError(
            f"{path}: must be of {test_split}, by which SUPERB scores {result.task}, but is of {result.split}. Name it "
            f"result-{result.split}.json, and run the task again."
        )
    if result.look:
        raise UserError(f"{path}: is no result but a look: {result.look}. Remove it and go on with the run (-a).")
