"""QbE: the maximum term-weighted value (MTWV) of QUESST 2014, from s3prl's ``benchmark.stdlist.xml``.

    TWV(t) = 1 - mean over queries of (P_miss(q, t) + beta P_fa(q, t))
    beta = C_fa (1 - P_target) / (C_miss P_target) = 12.49, with C_miss 100, C_fa 1, P_target 0.0008

A trial is one query in one utterance; it is detected if its score is above ``t``. P_miss is the share of the query's
occurrences that are not detected, P_fa the share of the other utterances that are detected. MTWV is the greatest TWV
over all ``t``; detecting nothing gives 0, so MTWV is never negative.

Source: the task's scoring kit, `score-TWV-Cnxe.sh` (the three constants) and the Java program beside it
(https://speech.fit.vutbr.cz/files/quesst14Database.tgz, folder `scoring`); s3prl's `downstream/docs/superb.md` calls it
with the default score -10. Two of its rules matter most:

- queries that occur nowhere are left out of the mean;
- a trial without a score gets the default score. s3prl searches English queries in English utterances only, but the
  ground truth holds all languages: every query of another language counts as missed. This is why MTWV is small in
  SUPERB.

The kit truncates the effective prior C_miss P / (C_miss P + C_fa (1 - P)) to seven digits, which changes beta by one
millionth.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from s3prl_pruned.config import UserError

STDLIST = "benchmark.stdlist.xml"
"""The file that s3prl's ``quesst14_dtw`` writes."""
C_MISS, C_FA, P_TARGET = 100.0, 1.0, 0.0008
BETA = C_FA * (1 - P_TARGET) / (C_MISS * P_TARGET)
DEFAULT_SCORE = -10.0
"""Score of trials that the system did not score, as superb.md passes it to the kit."""


@dataclass(frozen=True, kw_only=True)
class TermWeightedValue:
    """The best operating point."""

    mtwv: float
    threshold: float
    """Trials above it are detected; ``-inf`` if detecting everything is best."""
    p_miss: float
    p_fa: float
    """P_miss and P_fa are means over the queries, at the threshold."""
    num_queries: int
    """Number of queries with at least one occurrence."""
    num_utterances: int
    num_scored: int
    """Number of these queries' trials that the system scored; the others have the default score."""


@dataclass(frozen=True)
class GroundTruth:
    """Which query occurs in which utterance."""

    queries: list[str]
    utterances: list[str]
    occurs: np.ndarray
    """(Q queries, U utterances), bool."""


def score_stdlist(stdlist: Path, truth: Path, *, default_score: float = DEFAULT_SCORE) -> TermWeightedValue:
    """MTWV of one run of s3prl's ``quesst14_dtw``.

    Args:
        stdlist: the run's ``benchmark.stdlist.xml``.
        truth: ``groundtruth_quesst14_dev`` or ``groundtruth_quesst14_eval`` in the corpus's ``scoring`` folder.
        default_score: score of the trials that are not in the list.

    Raises:
        UserError: if a file is missing or damaged, a trial is unknown or given twice, a score is not finite.
    """
    scores, ground_truth = read_scores(stdlist, truth)
    unscored = np.isnan(scores)
    scores[unscored] = default_score
    best = max_term_weighted_value(scores, ground_truth.occurs)
    return replace(best, num_scored=int((~unscored[ground_truth.occurs.any(axis=1)]).sum()))


def read_scores(stdlist: Path, truth: Path) -> tuple[np.ndarray, GroundTruth]:
    """The scores of one run's trials, and in which of them the query occurs.

    Args:
        stdlist: the run's ``benchmark.stdlist.xml``.
        truth: as in ``score_stdlist``.

    Returns:
        Scores, (Q queries, U utterances), NaN where the run has none; and the ground truth, in the same order.

    Raises:
        UserError: if a file is missing or damaged, a trial is unknown or given twice, a score is not finite.
    """
    ground_truth = read_ground_truth(truth)
    scores = np.full(ground_truth.occurs.shape, np.nan)  # (Q, U)
    queries = {name: index for index, name in enumerate(ground_truth.queries)}
    utterances = {name: index for index, name in enumerate(ground_truth.utterances)}
    for query, utterance, score in read_trials(stdlist):
        if query not in queries or utterance not in utterances:
            raise UserError(
                f"{stdlist}: every trial must be in the ground truth {truth}, but it lacks query {query} or "
                f"utterance {utterance}. Score dev runs with the dev folder and test runs with the eval folder."
            )
        place = queries[query], utterances[utterance]
        if not math.isnan(scores[place]):
            raise UserError(f"{stdlist}: the trial of query {query} and utterance {utterance} is given twice.")
        scores[place] = score
    if np.isnan(scores).all():
        raise UserError(f"{stdlist}: holds no trials. Run the task again.")
    return scores, ground_truth


def max_term_weighted_value(scores: np.ndarray, occurs: np.ndarray) -> TermWeightedValue:
    """MTWV of a full matrix of trials.

    Args:
        scores: (Q queries, U utterances); a higher score means more likely to occur.
        occurs: (Q, U), bool. Rows without any occurrence are left out.

    Raises:
        UserError: if no query occurs, or one occurs in every utterance.
    """
    seen = occurs.any(axis=1)
    if not seen.any():
        raise UserError("MTWV: at least one query must occur in an utterance, but none does.")
    scores, occurs = scores[seen], occurs[seen].astype(bool)
    num_occurrences = occurs.sum(axis=1, keepdims=True)  # (Q, 1)
    num_others = occurs.shape[1] - num_occurrences
    if not num_others.all():
        raise UserError("MTWV: a query that occurs in every utterance has no false alarm rate.")
    # What each trial contributes to the means over queries once the threshold reaches its score.
    miss = np.where(occurs, 1 / num_occurrences, 0) / len(scores)
    false_alarm = np.where(occurs, 0, 1 / num_others) / len(scores)
    order = np.argsort(scores, axis=None, kind="stable")
    ascending = scores.ravel()[order]
    last = np.append(ascending[1:] != ascending[:-1], True)  # equal scores pass the threshold together
    passed = np.append(0, np.flatnonzero(last) + 1)  # trials at or below each threshold
    thresholds = np.append(-np.inf, ascending[last])
    p_miss = np.append(0, np.cumsum(miss.ravel()[order]))[passed]
    p_fa = np.append(np.cumsum(false_alarm.ravel()[order][::-1])[::-1], 0)[passed]
    values = 1 - (p_miss + BETA * p_fa)
    best = int(np.argmax(values))
    return TermWeightedValue(
        mtwv=float(values[best]), threshold=float(thresholds[best]), p_miss=float(p_miss[best]),
        p_fa=float(p_fa[best]), num_queries=len(scores), num_utterances=scores.shape[1], num_scored=scores.size,
    )  # fmt: skip


def best_layer(dev: Mapping[int, float]) -> int:
    """The layer with the greatest MTWV on dev, the lowest if several are equal. Its test MTWV is reported."""
    return max(sorted(dev), key=lambda layer: dev[layer])


def read_ground_truth(folder: Path) -> GroundTruth:
    """The ``*.tlist.xml`` (queries), ``*.ecf.xml`` (utterances) and ``*.rttm`` (occurrences) of a folder.

    Raises:
        UserError: if one of the three is missing, exists twice, or is damaged.
    """
    tlist, ecf, rttm = (_only(folder, pattern) for pattern in ("*.tlist.xml", "*.ecf.xml", "*.rttm"))
    queries = [_attribute(element, "termid", tlist) for element in _elements(tlist, "term")]
    files = [_attribute(element, "audio_filename", ecf) for element in _elements(ecf, "excerpt")]
    utterances = [PurePosixPath(file).stem for file in files]
    for path, names in ((tlist, queries), (ecf, utterances)):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice or not names:
            raise UserError(
                f"{path}: must name everything once, but {twice[0] + ' is there twice' if twice else 'is empty'}."
            )
    rows = {name: index for index, name in enumerate(queries)}
    columns = {name: index for index, name in enumerate(utterances)}
    occurs = np.zeros((len(queries), len(utterances)), dtype=bool)
    for line in _lines(rttm):
        fields = line.split()
        if len(fields) != 9:
            raise UserError(f"{rttm}: every line must have 9 fields, but {line!r} has {len(fields)}.")
        # SPEAKER lines and NO_KEYWORD name no query.
        if fields[5] in rows and fields[1] in columns:
            occurs[rows[fields[5]], columns[fields[1]]] = True
    return GroundTruth(queries, utterances, occurs)


def read_trials(stdlist: Path) -> Iterator[tuple[str, str, float]]:
    """Query, utterance and score of each trial of an ``*.stdlist.xml``, in its order."""
    query = None
    for element in _elements(stdlist, "detected_termlist", "term"):
        if element.tag == "detected_termlist":
            query = _attribute(element, "termid", stdlist)
            continue
        text = _attribute(element, "score", stdlist)
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise UserError(f"{stdlist}: every score must be a finite number, but {query} has {text!r}.")
        if query is None:
            raise UserError(f"{stdlist}: a term is outside a detected_termlist.")
        yield query, _attribute(element, "file", stdlist), score


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise UserError(
            f"{folder}: must hold one {pattern}, but holds {len(found)}. Give a ground truth folder of "
            "QUESST 2014, such as quesst14Database/scoring/groundtruth_quesst14_dev."
        )
    return found[0]


def _elements(path: Path, *tags: str) -> Iterator[ElementTree.Element]:
    """The elements with these tags, each yielded when its opening tag is read (a list has some hundred thousand)."""
    try:
        root = None
        for event, element in ElementTree.iterparse(path, events=("start", "end")):
            root = element if root is None else root
            if event == "start" and element.tag in tags:
                yield element
            elif event == "end":
                element.clear()
                if element.tag == "detected_termlist":
                    root.clear()
    except (OSError, ElementTree.ParseError) as error:
        raise UserError(f"{path}: is not complete XML ({error}).") from error


def _attribute(element: ElementTree.Element, name: str, path: Path) -> str:
    value = element.get(name)
    if value is None:
        raise UserError(f"{path}: <{element.tag}> must have the attribute {name}, but has {sorted(element.attrib)}.")
    return value


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
