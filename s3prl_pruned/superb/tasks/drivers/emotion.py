"""ER: s3prl's ``emotion`` on IEMOCAP; each session is the test set once, and the mean of the five is reported."""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any, ClassVar

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.results.result import Part, SplitRead
from s3prl_pruned.superb.tasks import corpora
from s3prl_pruned.superb.tasks.driver import Combined, DownstreamRun, Evaluation, Training
from s3prl_pruned.superb.tasks.drivers.classification import Classification
from s3prl_pruned.superb.tasks.iemocap import LABELS, SESSIONS, EmotionUtterance, read_session

FOLDS = tuple(f"fold{session}" for session in SESSIONS)


class EmotionRecognition(Classification):
    """Five trainings, in ``fold1`` to ``fold5``.

    ``-o config.downstream_expert.datarc.test_fold=fold2`` (or ``-v fold2``) runs one fold, which is no official result.
    """

    official_sizes: ClassVar[dict[str, int]] = {
        "Session1": 1085,
        "Session2": 1023,
        "Session3": 1151,
        "Session4": 1031,
        "Session5": 1241,
    }

    def check(self, config: dict[str, Any]) -> None:
        """Refuse an unknown fold."""
        fold = config["downstream_expert"]["datarc"].get("test_fold")
        if fold is not None and fold not in FOLDS:
            raise UserError(
                f"config.downstream_expert.datarc.test_fold: must be null (all five) or one of {', '.join(FOLDS)}, "
                f"but is {fold!r}."
            )

    def prepare(
        self, args: argparse.Namespace, config: dict[str, Any], *, corpus: Path, s3prl_root: Path | None
    ) -> list[SplitRead]:
        """Make s3prl's ``meta_data`` from the corpus's own annotation, or from that of a checkout of s3prl."""
        self.check_split(args.evaluate_split)
        if args.downstream_variant is not None and args.downstream_variant not in FOLDS:
            raise UserError(f"-v {args.downstream_variant}: must be one of {', '.join(FOLDS)}.")
        datarc = config["downstream_expert"]["datarc"]
        folders = ("sentences/wav/", "dialog/EmoEvaluation/")
        corpora.require(
            corpus,
            [f"Session{session}/{name}" for session in SESSIONS for name in folders],
            layout=f"the folder of {self.task.corpus}",
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
        folder = corpora.splits_folder("iemocap", corpus, read)
        paths = (corpus / utterance.path for utterances in sessions.values() for utterance in utterances)
        corpora.check_audio_once(paths, cache=folder, why="s3prl resamples all files like the first")
        datarc["root"], datarc["meta_data"] = str(corpus), str(_write_folds(folder, sessions))
        return read

    def trainings(self, run: DownstreamRun) -> list[Training]:
        """One training for each fold, or only that of the named fold."""
        datarc = run.config["downstream_expert"]["datarc"]
        if datarc.get("test_fold") or run.args.downstream_variant:
            return super().trainings(run)
        found = []
        for fold in FOLDS:
            config = copy.deepcopy(run.config)
            config["downstream_expert"]["datarc"]["test_fold"] = fold
            found.append(Training(name=fold, run=run.below(fold, config=config)))
        return found

    def prediction_files(self, evaluation: Evaluation) -> tuple[Path, Path]:
        """The files of a fold's predictions and truth."""
        folder, split = evaluation.run.folder, evaluation.run.args.evaluate_split
        fold = _fold_of(evaluation.run)
        return folder / f"{split}_{fold}_predict.txt", folder / f"{split}_{fold}_truth.txt"

    def expected_utterances(self, evaluation: Evaluation) -> int:
        """On test all utterances of the fold's session; on dev the share of the others that s3prl holds out."""
        run = evaluation.run
        test = f"Session{_fold_of(run).removeprefix('fold')}"
        if run.args.evaluate_split == "test":
            return run.num_utterances(test)
        rest = sum(split.num_utterances for split in run.splits if split.key != test)
        return rest - int((1 - run.config["downstream_expert"]["datarc"]["valid_ratio"]) * rest)

    def combine(self, parts: list[Part]) -> Combined:
        """The mean over the folds."""
        if len(parts) == 1:
            return super().combine(parts)
        mean = sum(value.value for part in parts for value in part.metrics) / len(parts)
        return Combined(
            metrics=[Value(name="acc", value=mean, unit="fraction")], chosen=None, rule=f"mean of {len(parts)} folds"
        )


def _fold_of(run: DownstreamRun) -> str:
    return run.config["downstream_expert"]["datarc"].get("test_fold") or run.args.downstream_variant


def _write_folds(folder: Path, sessions: dict[int, list[EmotionUtterance]]) -> Path:
    """Write s3prl's ``meta_data``: for each session as test set, its utterances and those of the others."""
    for test in sessions:
        rest = [utterance for session, found in sessions.items() if session != test for utterance in found]
        for name, utterances in (("train", rest), ("test", sessions[test])):
            data = {"labels": LABELS, "meta_data": [utterance.as_s3prl() for utterance in utterances]}
            (folder / f"Session{test}").mkdir(exist_ok=True)
            corpora.write_once(folder / f"Session{test}" / f"{name}_meta_data.json", json.dumps(data))
    return folder


def _read_given(meta_data: Path, session: int, corpus: Path) -> list[EmotionUtterance]:
    """Read a session from the ``meta_data`` of a checkout of s3prl."""
    path = meta_data / f"Session{session}" / "test_meta_data.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["meta_data"]
        utterances = [
            EmotionUtterance(path=str(r["path"]), label=str(r["label"]), speaker=str(r["speaker"])) for r in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not s3prl's list of a session ({error!r}).") from error
    if not utterances or any(utterance.label not in LABELS for utterance in utterances):
        raise UserError(f"{path}: every label must be one of {', '.join(LABELS)}, and there must be one.")
    corpora.refuse_missing_files(corpus, (utterance.path for utterance in utterances), str(path))
    return utterances
