"""The classification tasks KS, SID, IC and ER. All report the accuracy on test at the step that is best on dev."""

from __future__ import annotations

import re
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.tasks.checkpoints import load_checkpoint
from s3prl_pruned.superb.tasks.driver import Driver, Evaluation, EvaluationMetrics

LOG_FILE = "log.log"
"""s3prl's lines ``test at step 5000: 0.95`` and ``New best on dev at step 5000: 0.93``, fractions. A standalone
evaluation appears as step 0."""


class Classification(Driver):
    """s3prl's expert writes ``<split>_predict.txt`` and ``<split>_truth.txt``, a line for each utterance."""

    splits = ("dev", "test")
    """The possible values of ``-t``."""

    def prediction_files(self, evaluation: Evaluation) -> tuple[Path, Path]:
        """The files of an evaluation's predictions and truth."""
        folder, split = evaluation.run.folder, evaluation.run.args.evaluate_split
        return folder / f"{split}_predict.txt", folder / f"{split}_truth.txt"

    def check_split(self, split: str) -> None:
        """Refuse a ``-t`` that the expert does not have.

        Raises:
            UserError: with the splits that it has.
        """
        if split not in self.splits:
            raise UserError(f"-t {split}: {self.task.name} has the splits {', '.join(self.splits)}.")

    def read_metrics(self, evaluation: Evaluation, text: str) -> EvaluationMetrics:
        """Accuracy of the predictions that s3prl saved."""
        split = evaluation.run.args.evaluate_split
        correct = compare_predictions(*self.prediction_files(evaluation))
        (printed,) = re.findall(rf"^{re.escape(split)} acc: (\S+)$", text, flags=re.MULTILINE) or [None]
        if printed is None:
            raise RuntimeError(f"{split}: s3prl printed no accuracy.")
        values = [Value(name="acc", value=float(printed), unit="fraction")]
        logged = logged_accuracy(evaluation, split)
        if logged is not None:
            values.append(Value(name="acc_logged_while_training", value=logged, unit="fraction"))
        return EvaluationMetrics(
            metrics=[Value(name="acc", value=sum(correct) / len(correct), unit="fraction")],
            printed=values,
            num_utterances=len(correct),
        )


def compare_predictions(predicted: Path, truth: Path) -> list[bool]:
    """Whether each utterance's class is right, in the order of s3prl's two files (see ``named_predictions``)."""
    return [correct for _, correct in named_predictions(predicted, truth)]


def named_predictions(predicted: Path, truth: Path) -> list[tuple[str, bool]]:
    """Each utterance, and whether its class is right, from s3prl's two files.

    Returns:
        In the files' order; an utterance is named by its line in the file of true classes, since files of two classes
        may share a name.

    Raises:
        UserError: if one is missing or empty, or their lines are not of the same utterances.
    """
    files = []
    for path in (predicted, truth):
        try:
            files.append(
                [line.partition("," if path.suffix == ".csv" else " ")[::2] for line in path.open(encoding="utf-8")]
            )
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({error}). Evaluate the run again.") from error
    ours, theirs = files
    if not ours or [name for name, _ in ours] != [name for name, _ in theirs]:
        raise UserError(
            f"{predicted}: must hold the utterances of {truth.name} in the same order ({len(theirs)}), but holds "
            f"{len(ours)}. Evaluate the run again."
        )
    return [(f"{name} {other.strip()}", one == other) for (_, one), (name, other) in zip(ours, theirs, strict=True)]


def logged_accuracy(evaluation: Evaluation, split: str) -> float | None:
    """The accuracy on this split that s3prl logged during training, at the checkpoint's step, a fraction.

    None where s3prl evaluated on dev only. This is the number that users read in ``log.log``. The log of an
    interrupted run may hold the step twice; the last one counts.
    """
    path = evaluation.run.folder / LOG_FILE
    if evaluation.checkpoint is None or not path.is_file():
        return None
    step = load_checkpoint(evaluation.checkpoint)["Step"]
    text = path.read_text(encoding="utf-8")
    found = re.findall(rf"^{re.escape(split)} at step {step}: (\S+)$", text, flags=re.MULTILINE)
    return float(found[-1]) if found else None
