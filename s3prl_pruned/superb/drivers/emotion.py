"""ER: s3prl's ``emotion`` on IEMOCAP, each session once the test set; the mean of the five is reported."""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.drivers import corpus as corpora
from s3prl_pruned.superb.drivers.base import Combined, Evaluation, Training, part_of
from s3prl_pruned.superb.drivers.classification import Classification
from s3prl_pruned.superb.drivers.iemocap import LABELS, SESSIONS, Utterance, read_session
from s3prl_pruned.superb.results import Part, SplitRead
from s3prl_pruned.superb.tasks import Value

if TYPE_CHECKING:
    from s3prl_pruned.superb.experiment import Experiment

FOLDS = tuple(f"fold{session}" for session in SESSIONS)


class EmotionRecognition(Classification):
    """Five trainings in ``fold1`` to ``fold5``. ``-o config.downstream_expert.datarc.test_fold=fold2`` (or ``-v fold2``) runs
    one, which then is no official result."""

    official_sizes = {"Session1": 1085, "Session2": 1023, "Session3": 1151, "Session4": 1031, "Session5": 1241}

    def check(self, config: dict[str, Any]) -> None:
        fold = config["downstream_expert"]["datarc"].get("test_fold")
        if fold is not None and fold not in FOLDS:
            raise UserError(
                f"config.downstream_expert.datarc.test_fold: must be null (all five) or one of {', '.join(FOLDS)}, but is {fold!r}."
            )

    def prepare(
        self, args: argparse.Namespace, config: dict[str, Any], *, corpus: Path, s3prl_root: Path | None
    ) -> list[SplitRead]:
        self.check_split(args.evaluate_split)
        if args.downstream_variant is not None and args.downstream_variant not in FOLDS:
            raise UserError(f"-v {args.downstream_variant}: must be one of {', '.join(FOLDS)}.")
        datarc = config["downstream_expert"]["datarc"]
        folders = ("sentences/wav/", "dialog/EmoEvaluation/")
        corpora.require(
            corpus, [f"Session{session}/{name}" for session in SESSIONS for name in folders], layout=f"the folder of {self.task.corpus}"
        )
        given = s3prl_root / "downstream" / "emotion" / "meta_data" if s3prl_root is not None else None
        sessions = {}
        for session in SESSIONS:
            if given is not None and given.is_dir():
                sessions[session] = _read_given(given, session, corpus)
            else:
                sessions[session] = read_session(corpus, session)
        read = []
        for session, utterances in sessions.items():
            labels = " ".join(utterance.label for utterance in utterances)
            sha256 = corpora.digest(corpus, (utterance.path for utterance in utterances), more=labels)
            name = f"Session{session}"
            read.append(SplitRead(key=name, folder=name, num_utterances=len(utterances), sha256=sha256))
        folder = corpora.cache_folder("iemocap", " ".join([str(corpus.resolve()), *(split.sha256 for split in read)]))
        if not (folder / "checked").is_file():  # once: it opens every file
            paths = (corpus / utterance.path for utterances in sessions.values() for utterance in utterances)
            corpora.check_audio(paths, why="s3prl resamples all files as it does the first")
            corpora.write_once(folder / "checked", "")
        datarc["root"], datarc["meta_data"] = str(corpus), str(_write_folds(folder, sessions))
        return read

    def trainings(self, experiment: Experiment) -> list[Training]:
        datarc = experiment.config["downstream_expert"]["datarc"]
        if datarc.get("test_fold") or experiment.args.downstream_variant:
            return super().trainings(experiment)
        found = []
        for fold in FOLDS:
            config = copy.deepcopy(experiment.config)
            config["downstream_expert"]["datarc"]["test_fold"] = fold
            found.append(Training(name=fold, experiment=part_of(experiment, fold, config=config)))
        return found

    def prediction_files(self, evaluation: Evaluation) -> tuple[Path, Path]:
        folder, split = evaluation.experiment.folder, evaluation.experiment.args.evaluate_split
        fold = _fold_of(evaluation.experiment)
        return folder / f"{split}_{fold}_predict.txt", folder / f"{split}_{fold}_truth.txt"

    def expected_utterances(self, evaluation: Evaluation) -> int:
        experiment = evaluation.experiment
        test = f"Session{_fold_of(experiment).removeprefix('fold')}"
        if experiment.args.evaluate_split == "test":
            return experiment.num_utterances(test)
        rest = sum(split.num_utterances for split in experiment.splits if split.key != test)
        return rest - int((1 - experiment.config["downstream_expert"]["datarc"]["valid_ratio"]) * rest)

    def combine(self, parts: list[Part]) -> Combined:
        if len(parts) == 1:
            return super().combine(parts)
        mean = sum(value.value for part in parts for value in part.metrics) / len(parts)
        return Combined(
            metrics=[Value(name="acc", value=mean, unit="fraction")], chosen=None, rule=f"mean of {len(parts)} folds"
        )


def _fold_of(experiment: Experiment) -> str:
    return experiment.config["downstream_expert"]["datarc"].get("test_fold") or experiment.args.downstream_variant


def _write_folds(folder: Path, sessions: dict[int, list[Utterance]]) -> Path:
    """s3prl's ``meta_data``: for each session as test set, its utterances and those of the others."""
    for test in sessions:
        rest = [utterance for session, found in sessions.items() if session != test for utterance in found]
        for name, utterances in (("train", rest), ("test", sessions[test])):
            data = {"labels": LABELS, "meta_data": [utterance.as_s3prl() for utterance in utterances]}
            (folder / f"Session{test}").mkdir(exist_ok=True)
            corpora.write_once(folder / f"Session{test}" / f"{name}_meta_data.json", json.dumps(data))
    return folder


def _read_given(meta_data: Path, session: int, corpus: Path) -> list[Utterance]:
    """A session from the ``meta_data`` of a checkout of s3prl."""
    path = meta_data / f"Session{session}" / "test_meta_data.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["meta_data"]
        utterances = [Utterance(path=str(r["path"]), label=str(r["label"]), speaker=str(r["speaker"])) for r in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not s3prl's list of a session ({error!r}).") from error
    if not utterances or any(utterance.label not in LABELS for utterance in utterances):
        raise UserError(f"{path}: every label must be one of {', '.join(LABELS)}, and there must be one.")
    corpora.refuse_missing_files(corpus, (utterance.path for utterance in utterances), str(path))
    return utterances
