"""The interface of a task: what differs between the ten when s3prl's runner is called for them.

    prepare -> trainings -> (s3prl trains each) -> evaluations -> (s3prl evaluates each) -> score -> ... -> combine

A plain task is one training and one evaluation, of the checkpoint that was best on the development
set; that is what the defaults here do. Emotion recognition has five trainings, one per fold; speaker
verification evaluates every saved checkpoint; query by example has no training and evaluates every
layer on the development set before it knows which one to evaluate on test.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.checkpoints import newest_checkpoint
from s3prl_pruned.superb.results import Part, SplitRead
from s3prl_pruned.superb.tasks import Task, Unit, Value

if TYPE_CHECKING:
    from s3prl_pruned.superb.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training by s3prl's runner."""

    name: str
    """Such as ``fold1``; empty where the task has only one."""
    experiment: Experiment
    """With its own folder, arguments and settings."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation by s3prl's runner."""

    name: str
    """Such as ``fold1`` or ``layer 3``; empty where the task has only one."""
    experiment: Experiment
    """``args.evaluate_split`` says the split; the folder is where s3prl writes and, where there are
    several evaluations, is this one's alone."""
    checkpoint: Path | None
    """None where there is nothing to train."""
    rule: str
    """Why this checkpoint, in words for the result."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one evaluation gave."""

    metrics: list[Value]
    """Recomputed from what s3prl kept."""
    printed: list[Value]
    """What s3prl printed. One of the same name as a metric must have its value."""
    num_utterances: int
    """How many were scored."""
    rule: str | None = None
    """How the metrics came of what s3prl kept, where something was searched."""


@dataclass(frozen=True, kw_only=True)
class Combined:
    """The task's result, of one or several evaluations."""

    metrics: list[Value]
    chosen: Part | None
    """The evaluation whose value is reported; None where it is a mean over all."""
    rule: str | None
    """How the metrics came of the parts or of a search, in words; None where there is nothing to say."""


class Driver:
    """A plain task; every task's driver is derived from it.

    Drivers hold no state besides the task.
    """

    trains = True
    """Whether there is anything to train."""
    transcribes = False
    """Whether s3prl's expert has ``-m inference``."""
    best = "dev-best.ckpt"
    """The checkpoint that s3prl writes whenever the value on the development set gets better."""
    best_rule = "highest accuracy on dev"
    no_best_rule = "the last one, since the accuracy on dev never got above 0"
    """Said where ``best`` was never written."""
    criterion: tuple[str, Unit] | None = ("acc", "fraction")
    """Name and unit of the value by which s3prl's expert takes the best checkpoint; None where it takes none."""
    optional_settings: tuple[str, ...] = ()
    """Paths below ``downstream_expert`` that ``-o`` may set though our settings lack them, besides the corpus'."""
    official_sizes: dict[str, int] = {}
    """Utterances of the benchmark's splits, by ``SplitRead.folder``."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def random_waveforms(self, config: dict[str, Any]) -> str | None:
        """What the task does to waveforms at random, so that no two epochs see the same; None where it does nothing."""
        return None

    def check(self, config: dict[str, Any]) -> None:
        """Refuse settings that this task cannot run with, beyond ``settings.check``.

        Raises:
            UserError: naming the setting, the rule and the value.
        """

    def prepare(
        self, args: argparse.Namespace, config: dict[str, Any], *, corpus: Path, s3prl_root: Path | None
    ) -> list[SplitRead]:
        """Check the corpus in its official layout; put paths into the settings; write what s3prl's package lacks.

        Lists and lengths go below ``cache_folder``, keyed by the corpus' content. The run's folder is
        not touched: that is ``adapt``'s part.

        Args:
            args: s3prl's arguments; ``mode`` and ``evaluate_split`` say what will be read.
            config: changed in place.
            corpus: what ``--corpus`` names.
            s3prl_root: a checkout of s3prl whose files are used where it has them.

        Returns:
            The splits that the run reads.

        Raises:
            UserError: on anything that would stop s3prl later, or be lost silently.
        """
        raise NotImplementedError

    def adapt(self, experiment: Experiment) -> None:
        """Called before each of s3prl's runners is made: patch its expert, write into the run's folder."""

    def make_faster(self, runner: Any, experiment: Experiment) -> None:
        """Called before a training on a CPU: the same numbers in less time, where that is possible."""

    def trainings(self, experiment: Experiment) -> list[Training]:
        """The trainings of the task; one, in the run's own folder, unless overridden."""
        return [Training(name="", experiment=experiment)]

    def evaluations(self, experiment: Experiment, done: list[Part]) -> list[Evaluation]:
        """What is to be evaluated next, knowing what was evaluated; empty when the task is complete.

        Raises:
            UserError: if there is no checkpoint.
        """
        if done:
            return []
        return [self.best_evaluation(training) for training in self.trainings(experiment)]

    def best_evaluation(self, training: Training) -> Evaluation:
        """The evaluation of a training's best checkpoint; where none was written, of its last."""
        folder = training.experiment.folder
        path, rule = folder / self.best, self.best_rule
        if not path.is_file():
            path, rule = newest_checkpoint(folder), self.no_best_rule
        if path is None:
            raise UserError(f"{folder}: holds no checkpoint. Train first (-m train or all), or name one by -e.")
        return Evaluation(name=training.name, experiment=training.experiment, checkpoint=path, rule=rule)

    def dev_value(self, checkpoint: Path, states: dict[str, Any]) -> Value | None:
        """The criterion's value at the best checkpoint, which s3prl's experts keep in their buffer ``best_score``."""
        best = states.get("Downstream", {}).get("best_score")
        if self.criterion is None or checkpoint.name != self.best or best is None:
            return None
        name, unit = self.criterion
        return Value(name=name, value=float(best), unit=unit)

    def score(self, evaluation: Evaluation, text: str) -> Score:
        """The metrics of one evaluation.

        Args:
            text: what s3prl printed.

        Raises:
            UserError: if files that s3prl should have left are missing or contradict each other.
        """
        raise NotImplementedError

    def expected_utterances(self, evaluation: Evaluation) -> int:
        """How many must be scored."""
        return evaluation.experiment.num_utterances(evaluation.experiment.args.evaluate_split)

    def combine(self, parts: list[Part]) -> Combined:
        """The task's metrics of all its evaluations, in the order in which they were made."""
        (part,) = parts
        return Combined(metrics=part.metrics, chosen=part, rule=part.rule)

    def differences(self, experiment_splits: list[SplitRead]) -> list[str]:
        """In what the corpus differs from the benchmark's, in words for the protocol's note."""
        return [
            f"{split.num_utterances} utterances in {split.folder}"
            for split in experiment_splits
            if split.num_utterances != self.official_sizes.get(split.folder, split.num_utterances)
        ]


def part_of(experiment: Experiment, name: str, **changes: Any) -> Experiment:
    """The experiment in a sub-folder of its own, with changed arguments (``args``) and settings (``config``)."""
    folder = experiment.folder / name
    args = argparse.Namespace(**(vars(experiment.args) | changes.get("args", {}) | {"expdir": str(folder)}))
    return replace(experiment, args=args, config=changes.get("config", experiment.config), folder=folder)
