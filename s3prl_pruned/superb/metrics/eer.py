"""SV: the equal error rate (EER), from s3prl's ``test_predict.txt`` and the list of trials."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from s3prl_pruned.config import UserError
from s3prl_pruned.objectives.eer import equal_error_rate

PREDICTIONS = "test_predict.txt"
"""Written by s3prl's ``sv_voxceleb1``. Its ``test_truth.txt`` is always empty, so labels come from the trials."""


def score_predictions(predictions: Path, trials: Path) -> float:
    """The equal error rate of one evaluated checkpoint.

    Args:
        predictions: s3prl's ``test_predict.txt``: ``speaker-video-utterance_speaker-video-utterance score``.
        trials: VoxCeleb's list, ``label path path`` (``voxceleb1_test_v2.txt`` in the benchmark).

    Raises:
        UserError: if a file is missing or damaged, or the two files hold different trials.
    """
    labels = _read_trials(trials)
    pairs = [_fields(predictions, line, 2) for line in _lines(predictions)]
    unknown = [name for name, _ in pairs if name not in labels]
    if unknown or len(pairs) != sum(len(given) for given in labels.values()):
        raise UserError(
            f"{predictions}: must hold one score for each trial of {trials}, but holds {len(pairs)} for "
            f"{sum(len(given) for given in labels.values())}, {len(unknown)} of them unknown"
            f"{f' ({unknown[0]})' if unknown else ''}. Evaluate again, or give the list that was evaluated."
        )
    try:
        scores = [float(score) for _, score in pairs]
    except ValueError as error:
        raise UserError(f"{predictions}: every line must end in a number ({error}).") from error
    if not all(map(math.isfinite, scores)):
        raise UserError(f"{predictions}: every score must be finite, but one is NaN or infinite.")
    return equal_error_rate(np.array([labels[name][0] for name, _ in pairs]), np.array(scores))


def _read_trials(path: Path) -> dict[str, list[int]]:
    """Labels by s3prl's name of a pair; a list may hold a pair more than once."""
    labels: dict[str, list[int]] = {}
    for line in _lines(path):
        label, *utterances = _fields(path, line, 3)
        if label not in ("0", "1"):
            raise UserError(f"{path}: every line must begin with 0 or 1, but has {line!r}.")
        name = "_".join("-".join(utterance.split("/")[-3:]).split(".")[0] for utterance in utterances)
        given = labels.setdefault(name, [])
        given.append(int(label))
        if given[0] != given[-1]:
            raise UserError(f"{path}: the pair {name} is labelled both 0 and 1.")
    return labels


def _fields(path: Path, line: str, count: int) -> list[str]:
    fields = line.split()
    if len(fields) != count:
        raise UserError(f"{path}: every line must have {count} fields, but has {line!r}.")
    return fields


def _lines(path: Path) -> list[str]:
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    if not lines:
        raise UserError(f"{path}: is empty.")
    return lines
