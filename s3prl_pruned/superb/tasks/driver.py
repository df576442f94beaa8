"""The interface of a task: what differs between the ten when s3prl's runner is called for them.

    check -> prepare -> trainings -> (s3prl trains each)
        -> evaluations -> (s3prl evaluates each) -> read_metrics -> ... -> combine

A plain task is one training and one evaluation, of the checkpoint that was best on the development set; that is what
the defaults here do. Emotion recognition has five trainings, one per fold; speaker verification evaluates every saved
checkpoint; query by example has no training and evaluates every layer on the development set before it knows which one
to evaluate on test. ``drivers/`` holds one driver per task.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import Task, Unit, Value
from s3prl_pruned.superb.results.result import Part, SplitRead
from s3prl_pruned.superb.tasks.checkpoints import newest_checkpoint


@dataclass(kw_only=True)
class DownstreamRun:
    """One run of one task: what s3prl's runner is given, and what its result says of it."""

    task: Task
    driver: Driver
    args: argparse.Namespace
    """s3prl's arguments."""
    config: dict[str, Any]
    """s3prl's settings, with the corpus' paths filled in."""
    folder: Path
    corpus: Path
    embedded: bool
    """Whether the corpus is the one that comes with the package."""
    splits: list[SplitRead]
    """The splits that this call reads."""
    protocol: str
    protocol_note: str | None
    config_sha256: str
    former_sha256: str | None = None
    """``config_sha256`` as versions before computed it, without the driver's ``selecting``."""
    features: Path | None = None
    """Where features are kept; None where they are extracted every time."""

    def num_utterances(self, key: str) -> int:
        """Utterances in a split, by s3prl's name of it."""
        return sum(split.num_utterances for split in self.splits if split.key == key)

    def below(
        self, name: str, *, args: dict[str, Any] | None = None, config: dict[str, Any] | None = None
    ) -> DownstreamRun:
        """The same run in a sub-folder: one of several trainings or evaluations.

        Args:
            name: of the sub-folder.
            args: arguments that differ.
            config: settings in place of this run's.
        """
        folder = self.folder / name
        changed = argparse.Namespace(**(vars(self.args) | (args or {}) | {"expdir": str(folder)}))
        return replace(self, args=changed, config=self.config if config is None else config, folder=folder)


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training by s3prl's runner."""

    name: str
    """Such as ``fold1``; empty where the task has only one."""
    run: DownstreamRun
    """With its own folder, arguments and settings."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation by s3prl's runner."""

    name: str
    """Such as ``fold1`` or ``layer 3``; empty where the task has only one."""
    run: DownstreamRun
    """``args.evaluate_split`` says the split. The folder is where s3prl writes; where there are several evaluations, it
    is this one's alone."""
    checkpoint: Path | None
    """None where there is nothing to train."""
    rule: str
    """Why this checkpoint, in words for the result."""
    by_hand: bool = False
    """Whether the user named the checkpoint."""


@dataclass(frozen=True, kw_only=True)
class EvaluationMetrics:
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
    selecting: tuple[str, ...] = ()
    """Settings that decide here which checkpoint is reported, and elsewhere nothing."""
    optional_settings: tuple[str, ...] = ()
    """Paths below ``downstream_expert`` that ``-o`` may set though our settings lack them, besides the corpus'."""
    official_sizes: ClassVar[dict[str, int]] = {}
    """Utterances of the benchmark's splits, by ``SplitRead.folder``."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def random_waveforms(self, config: dict[str, Any]) -> str | None:
        """What the task does to waveforms at random, so that no two epochs see the same; None where it does nothing."""
        return None

    def extracts_once(self, run: DownstreamRun) -> bool:
        """Whether several evaluations read the same features, one utterance at a time, so that they are kept."""
        return False

    def check(self, config: dict[str, Any]) -> None:
        """Refuse settings that this task cannot run with, beyond ``settings.check``.

        Raises:
            UserError: naming the setting, the rule and the value.
        """

    def prepare(
        self, args: argparse.Namespace, config: dict[str, Any], *, corpus: Path, s3prl_root: Path | None
    ) -> list[SplitRead]:
        """Check the corpus in its official layout; put paths into the settings; write what s3prl's package lacks.

        Lists and lengths go below ``cache_folder``, keyed by the corpus' content. The run's folder is not touched: that
        is done by ``adapt``.

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

    def adapt(self, run: DownstreamRun) -> None:
        """Called before each of s3prl's runners is made: patch its expert, write into the run's folder."""

    def make_faster(self, runner: Any, run: DownstreamRun) -> None:
        """Called before a training on a CPU: the same numbers in less time, where that is possible."""

    def trainings(self, run: DownstreamRun) -> list[Training]:
        """The trainings of the task; one, in the run's own folder, unless overridden."""
        return [Training(name="", run=run)]

    def evaluations(self, run: DownstreamRun, done: list[Part]) -> list[Evaluation]:
        """What is to be evaluated next, knowing what was evaluated; empty when the task is complete.

        Raises:
            UserError: if there is no checkpoint.
        """
        if done:
            return []
        return [self.best_evaluation(training) for training in self.trainings(run)]

    def best_evaluation(self, training: Training) -> Evaluation:
        """The evaluation of a training's best checkpoint; where none was written, of its last."""
        folder = training.run.folder
        path: Path | None = folder / self.best
        rule = self.best_rule
        if not (folder / self.best).is_file():
            path, rule = newest_checkpoint(folder), self.no_best_rule
        if path is None:
            raise UserError(f"{folder}: holds no checkpoint. Train first (-m train or all), or name one by -e.")
        return Evaluation(name=training.name, run=training.run, checkpoint=path, rule=rule)

    def dev_value(self, checkpoint: Path, states: dict[str, Any]) -> Value | None:
        """The criterion's value at the best checkpoint, which s3prl's experts keep in their buffer ``best_score``."""
        best = states.get("Downstream", {}).get("best_score")
        if self.criterion is None or checkpoint.name != self.best or best is None:
            return None
        name, unit = self.criterion
        return Value(name=name, value=float(best), unit=unit)

    def read_metrics(self, evaluation: Evaluation, text: str) -> EvaluationMetrics:
        """The metrics of one evaluation, from what s3prl left in its folder.

        Args:
            evaluation: that s3prl has made.
            text: what it printed.

        Raises:
            UserError: if files that s3prl should have left are missing or contradict each other.
        """
        raise NotImplementedError

    def expected_utterances(self, evaluation: Evaluation) -> int:
        """How many must be scored."""
        return evaluation.run.num_utterances(evaluation.run.args.evaluate_split)

    def combine(self, parts: list[Part]) -> Combined:
        """The task's metrics of all its evaluations, in the order in which they were made."""
        (part,) = parts
        return Combined(metrics=part.metrics, chosen=part, rule=part.rule)

    def differences(self, splits: list[SplitRead]) -> list[str]:
        """In what the corpus differs from the benchmark's, in words for the protocol's note."""
        return [
            f"{split.num_utterances} utterances in {split.folder}"
            for split in splits
            if split.num_utterances != self.official_sizes.get(split.folder, split.num_utterances)
        ]
