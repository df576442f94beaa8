"""The test results in a finished run's files, piece by piece, for intervals and for comparing two runs.

| task | file | piece |
|---|---|---|
| ASR, PR, SF | ``<split>-{hyp,ref}.ark`` | utterance |
| KS, SID, IC, ER | ``test_{predict,truth}.txt`` (ER: of each fold) | utterance |
| SV | ``test_predict.txt`` of the reported checkpoint | speaker |
| SD | ``scoring/der.json`` | recording |
| QbE | ``benchmark.stdlist.xml`` of the reported layer, and the corpus's ground truth | query |

The metric of the pieces must equal the result's metric: files of another evaluation are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from s3prl_pruned.config import UserError
from s3prl_pruned.report import resampling
from s3prl_pruned.report.resampling import Resampled
from s3prl_pruned.superb.catalogue import TASKS
from s3prl_pruned.superb.metrics import edits, eer, mtwv
from s3prl_pruned.superb.results.arks import read_hypotheses
from s3prl_pruned.superb.results.result import RUN_FILE, Result, read_json
from s3prl_pruned.superb.results.s3prl_runs.files import read_lines
from s3prl_pruned.superb.results.s3prl_runs.found import NO_REFERENCES, TOLERANCE, References
from s3prl_pruned.superb.tasks.drivers.classification import named_predictions
from s3prl_pruned.superb.tasks.drivers.diarization import SEARCH_FILE

_TRIAL = re.compile(r"(id\d+)-.+-\d+_(id\d+)-.+-\d+ (\S+)")
"""A line of SV's predictions: two files, ``speaker-video-number``, and the score."""


_UNITS: dict[str, Callable[[str], list[str]]] = {
    "wer": lambda text: text.split(), "cer": list, "per": lambda text: text.split(" ")
}  # fmt: skip
"""Splits a text into units. An utterance without phones has one empty unit, as s3prl counts."""


@dataclass(frozen=True, kw_only=True)
class KeptTest:
    """One metric of one run, piece by piece."""

    name: str
    """Name of the metric."""
    resampled: Resampled
    texts: tuple[dict[str, str], dict[str, str]] | None = None
    """Hypotheses and references by utterance, for the matched-pairs test: errors are of words or phones."""
    correct: dict[str, bool] = field(default_factory=dict)
    """Whether each utterance is right, for metrics that are accuracies."""


def kept_tests(result: Result, folders: list[Path], references: References = NO_REFERENCES) -> list[KeptTest]:
    """Read the pieces of a task's metrics from a run's files.

    Args:
        result: the run's result.
        folders: the run's folder, or several if s3prl wrote it.
        references: where QbE's ground truth is, if not where the run found it.

    Raises:
        UserError: if a file is missing, damaged or of another evaluation.
    """
    folder = _evaluated(result, folders)
    found = _READERS[result.task](result, folder, references)
    values = result.values()
    for test in found:
        stored, computed = values[test.name].percent, test.resampled.value()
        if not abs(stored - computed) <= 10 * TOLERANCE:
            raise UserError(
                f"{folder}: its result says {test.name} {stored:.4f} %, but the files beside it give {computed:.4f} %. "
                "They are from another evaluation; evaluate again (-m evaluate --force)."
            )
    return found


def _evaluated(result: Result, folders: list[Path]) -> Path:
    """The folder of the evaluation; for a search by earlier versions, the folder of the chosen rate's try."""
    if len(folders) > 1:
        raise UserError(
            f"{folders[0]}: s3prl wrote this run into {len(folders)} folders, from which no pieces are read. Run "
            f"{result.task} by run_downstream.py to compare it."
        )
    chosen = [tried.folder for tried in result.tried_rates or [] if tried.chosen]
    return folders[0] if not chosen or (folders[0] / RUN_FILE).is_file() else folders[0] / chosen[0]


def _recognition(result: Result, folder: Path, _: References) -> list[KeptTest]:
    stem = f"{result.split}-noLM" if result.task == "asr" else result.split
    hypotheses, references = read_hypotheses(folder, stem)
    rates = {"asr": ("wer", "cer"), "pr": ("per",)}[result.task]
    found = []
    for name in rates:
        units = _UNITS[name]
        counts = {key: edits.edits_of(units(hypotheses[key]), units(text)) for key, text in references.items()}
        texts = None if name == "cer" else (hypotheses, references)
        found.append(KeptTest(name=name, resampled=_of_utterances(counts), texts=texts))
    return [test for test in found if test.name in result.values()]


def _slots(result: Result, folder: Path, _: References) -> list[KeptTest]:
    hypotheses, references = read_hypotheses(folder, result.split)
    types = {key: (edits.slot_type_f1({key: hypotheses[key]}, {key: references[key]}), 1) for key in references}
    values = {key: edits.slot_value_edits(hypotheses[key], references[key]) for key in references}
    return [
        KeptTest(name="slot_type_f1", resampled=_of_utterances(types)),
        KeptTest(name="slot_value_cer", resampled=_of_utterances(values)),
    ]


def _classes(result: Result, folder: Path, _: References) -> list[KeptTest]:
    kind = "csv" if result.task == "ic" else "txt"
    places = [(folder, "test")]
    if result.task == "er":
        places = [(folder / f"fold{n}", f"test_fold{n}") for n in range(1, 6)]
    correct: dict[str, bool] = {}
    means: dict[str, tuple[float, float]] = {}
    for place, stem in places:
        named = named_predictions(place / f"{stem}_predict.{kind}", place / f"{stem}_truth.{kind}")
        for name, right in named:
            if name in correct:
                raise UserError(
                    f"{place / f'{stem}_truth.{kind}'}: {name!r} occurs twice, so predictions cannot be paired by it."
                )
            correct[name] = right
            means[name] = (right / len(named), 1 / len(named))  # for ER the mean over folds is reported
    return [KeptTest(name="acc", resampled=_of_utterances(means), correct=correct)]


def _verification(result: Result, folder: Path, _: References) -> list[KeptTest]:
    path = folder / eer.PREDICTIONS
    if result.parts and result.checkpoint is not None:
        path = folder / Path(result.checkpoint.file).stem / eer.PREDICTIONS
    matches = [_TRIAL.fullmatch(line) for line in read_lines(path)]
    trials = [match.groups() for match in matches if match]
    if not trials or len(trials) < len(matches):
        raise UserError(f"{path}: every line must be `speaker-video-number_speaker-video-number score`.")
    pieces = tuple(sorted({name for *pair, _ in trials for name in pair}))
    number = {name: place for place, name in enumerate(pieces)}
    speakers = np.array([[number[one], number[other]] for one, other, _ in trials])
    labels = (speakers[:, 0] == speakers[:, 1]).astype(int)
    scores = np.array([float(score) for *_, score in trials])
    statistic = resampling.verification(labels, scores, speakers)
    return [KeptTest(name="eer", resampled=Resampled(pieces=pieces, kind="speakers", statistic=statistic))]


def _diarization(result: Result, folder: Path, _: References) -> list[KeptTest]:
    path = folder / SEARCH_FILE
    recordings = read_json(path).get("recordings")
    if not recordings:
        raise UserError(
            f"{path}: holds no errors per recording, since an earlier version wrote it. Evaluate again (--force)."
        )
    wrong = ("missed", "false_alarm", "confused")
    seconds = {name: (sum(found[kind] for kind in wrong), found["total"]) for name, found in recordings.items()}
    return [KeptTest(name="der", resampled=_of_utterances(seconds, kind="recordings"))]


def _search(result: Result, folder: Path, references: References) -> list[KeptTest]:
    path = folder / mtwv.STDLIST
    if result.parts:
        layer = re.match(r"layer (\d+)", result.rule or "")
        path = folder / f"layer{layer[1] if layer else ''}-{result.split}" / mtwv.STDLIST
    root = references.quesst14 or Path(result.corpus or "")
    truth = root / "scoring" / "groundtruth_quesst14_eval"
    if not truth.is_dir():
        raise UserError(f"{truth}: is missing, and without it queries cannot be told apart. Give --quesst14.")
    trials, known = mtwv.read_scores(path, truth)
    seen = np.asarray(known.occurs.any(axis=1))
    statistic = resampling.term_weighted(trials[seen], known.occurs[seen], lowest=mtwv.DEFAULT_SCORE)
    pieces = tuple(name for name, occurs in zip(known.queries, seen, strict=True) if occurs)
    return [KeptTest(name="mtwv", resampled=Resampled(pieces=pieces, kind="queries", statistic=statistic))]


def _of_utterances(pairs: Mapping[str, tuple[float, float]], kind: str = "utterances") -> Resampled:
    """A rate from (numerator, denominator) by piece."""
    pieces = tuple(sorted(pairs))
    over, under = zip(*(pairs[name] for name in pieces), strict=True)
    return Resampled(pieces=pieces, kind=kind, statistic=resampling.ratio(over, under))


_READERS: dict[str, Callable[[Result, Path, References], list[KeptTest]]] = {
    "pr": _recognition, "asr": _recognition, "sf": _slots, "sv": _verification, "sd": _diarization, "qbe": _search,
    **dict.fromkeys(("ks", "sid", "ic", "er"), _classes),
}  # fmt: skip
assert _READERS.keys() == TASKS.keys()
