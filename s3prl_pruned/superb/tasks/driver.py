"""The interface of a task: the differences between the ten tasks when s3prl's runner is called.

    check -> prepare -> trainings -> (s3prl trains each)
        -> evaluations -> (s3prl evaluates each) -> read_metrics -> ... -> combine

A plain task has one training and one evaluation, of the checkpoint that is best on the development set; these are the
defaults here. Emotion recognition has five trainings, one per fold; speaker verification evaluates every saved
checkpoint; query by example has no training, and evaluates every layer on the development set to choose the one to
evaluate on test. ``drivers/`` holds one driver per task.
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
    """One run of one task: the input of s3prl's runner, and what the result records of it."""

    task: Task
    driver: Driver
    args: argparse.Namespace
    """s3prl's arguments."""
    config: dict[str, Any]
    """s3prl's settings, with the corpus's paths filled in."""
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
    """``config_sha256`` as earlier versions computed it, without the driver's ``selecting``."""
    features: Path | None = None
    """Where features are cached; None where they are extracted every time."""

    def num_utterances(self, key: str) -> int:
        """The number of utterances in a split, by s3prl's name of the split."""
        return sum(split.num_utterances for split in self.splits if split.key == key)

    def below(
        self, name: str, *, args: dict[str, Any] | None = None, config: dict[str, Any] | None = None
    ) -> DownstreamRun:
        """The same run in a subfolder: one of several trainings or evaluations.

        Args:
            name: name of the subfolder.
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
    """A name such as ``fold1``; empty where the task has only one training."""
    run: DownstreamRun
    """The run, with this training's folder, arguments and settings."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation by s3prl's runner."""

    name: str
    """A name such as ``fold1`` or ``layer 3``; empty where the task has only one evaluation."""
    run: DownstreamRun
    """``args.evaluate_split`` is the split. s3prl writes into its folder; of several evaluations each has its own."""
    checkpoint: Path | None
    """The checkpoint to evaluate; None where nothing is trained."""
    rule: str
    """How this checkpoint was chosen, in words, for the result."""
    by_hand: bool = False
    """Whether the user named the checkpoint."""


@dataclass(frozen=True, kw_only=True)
class EvaluationMetrics:
    """The metrics of one evaluation."""

    metrics: list[Value]
    """Metrics recomputed from s3prl's files."""
    printed: list[Value]
    """Values that s3prl printed. A value with the same name as a metric must be equal to it."""
    num_utterances: int
    """Number of scored utterances."""
    rule: str | None = None
    """How the metrics were obtained from s3prl's files, where something was searched."""


@dataclass(frozen=True, kw_only=True)
class Combined:
    """The task's result, of one or several evaluations."""

    metrics: list[Value]
    chosen: Part | None
    """The evaluation whose value is reported; None where it is a mean over all."""
    rule: str | None
    """How the metrics were obtained from the parts or by a search, in words; None where neither was needed."""


class Driver:
    """A plain task; the base class of every task's driver.

    Drivers have no state besides the task.
    """

    trains = True
    """Whether there is anything to train."""
    transcribes = False
    """Whether s3prl's expert has ``-m inference``."""
    best = "dev-best.ckpt"
    """The checkpoint that s3prl writes whenever the value on the development set gets better."""
    best_rule = "highest accuracy on dev"
    no_best_rule = "the last one, since the accuracy on dev never got above 0"
    """The rule where ``best`` was never written."""
    criterion: tuple[str, Unit] | None = ("acc", "fraction")
    """Name and unit of the value by which s3prl's expert chooses the best checkpoint; None where it chooses none."""
    selecting: tuple[str, ...] = ()
    """Settings that decide which checkpoint this task reports, and change nothing in other tasks."""
    optional_settings: tuple[str, ...] = ()
    """Settings below ``downstream_expert`` that ``-o`` may set although our settings lack them, besides the corpus's
    paths."""
    official_sizes: ClassVar[dict[str, int]] = {}
    """Utterances of the benchmark's splits, by ``SplitRead.folder``."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def random_waveforms(self, config: dict[str, Any]) -> str | None:
        """How the task changes waveforms at random in every epoch, in words; None if it does not."""
        return None

    def extracts_once(self, run: DownstreamRun) -> bool:
        """Whether several evaluations read the same features, one utterance at a time, so that they are cached."""
        return False

    def check(self, config: dict[str, Any]) -> None:
        """Refuse settings with which this task cannot run, in addition to ``settings.check``.

        Raises:
            UserError: with the setting, the rule and the value.
        """

    def prepare(
        self, args: argparse.Namespace, config: dict[str, Any], *, corpus: Path, s3prl_root: Path | None
    ) -> list[SplitRead]:
        """Check the corpus in its official layout; put paths into the settings; write files that s3prl's package lacks.

        Lists and lengths are written below ``cache_folder``, keyed by the corpus's content. The run's folder is left
        alone: ``adapt`` writes into it.

        Args:
            args: s3prl's arguments; ``mode`` and ``evaluate_split`` say what will be read.
            config: the settings, changed in place.
            corpus: the folder of ``--corpus``.
            s3prl_root: a checkout of s3prl; its files are used where they exist.

        Returns:
            The splits that the run reads.

        Raises:
            UserError: on anything that would stop s3prl later, or that it would silently leave out.
        """
        raise NotImplementedError

    def adapt(self, run: DownstreamRun) -> None:
        """Called before a runner of s3prl is made: patch its expert, write into the run's folder."""

    def make_faster(self, runner: Any, run: DownstreamRun) -> None:
        """Called before training on a CPU: the same numbers in less time, where that is possible."""

    def trainings(self, run: DownstreamRun) -> list[Training]:
        """The trainings of the task; one, in the run's own folder, unless overridden."""
        return [Training(name="", run=run)]

    def evaluations(self, run: DownstreamRun, done: list[Part]) -> list[Evaluation]:
        """The next evaluations, given those that are done; empty when the task is complete.

        Raises:
            UserError: if there is no checkpoint.
        """
        if done:
            return []
        return [self.best_evaluation(training) for training in self.trainings(run)]

    def best_evaluation(self, training: Training) -> Evaluation:
        """The evaluation of a training's best checkpoint, or of its last if no best was written."""
        folder = training.run.folder
        path: Path | None = folder / self.best
        rule = self.best_rule
        if not (folder / self.best).is_file():
            path, rule = newest_checkpoint(folder), self.no_best_rule
        if path is None:
            raise UserError(f"{folder}: holds no checkpoint. Train first (-m train or all), or name one by -e.")
        return Evaluation(name=training.name, run=training.run, checkpoint=path, rule=rule)

    def dev_value(self, checkpoint: Path, states: dict[str, Any]) -> Value | None:
        """The criterion's value at the best checkpoint, which s3prl's experts store in their buffer ``best_score``."""
        best = states.get("Downstream", {}).get("best_score")
        if self.criterion is None or checkpoint.name != self.best or best is None:
            return None
        name, unit = self.criterion
        return Value(name=name, value=float(best), unit=unit)

    def read_metrics(self, evaluation: Evaluation, text: str) -> EvaluationMetrics:
        """The metrics of one evaluation, from s3prl's files in its folder.

        Args:
            evaluation: an evaluation that s3prl has finished.
            text: what s3prl printed.

        Raises:
            UserError: if files that s3prl should have written are missing or contradict each other.
        """
        raise NotImplementedError

    def expected_utterances(self, evaluation: Evaluation) -> int:
        """The number of utterances that must be scored."""
        return evaluation.run.num_utterances(evaluation.run.args.evaluate_split)

    def combine(self, parts: list[Part]) -> Combined:
        """The task's metrics from all its evaluations, in the order in which they were made."""
        (part,) = parts
        return Combined(metrics=part.metrics, chosen=part, rule=part.rule)

    def differences(self, splits: list[SplitRead]) -> list[str]:
        """How the corpus differs from the benchmark's, in words, for the protocol's note."""
        return [
            f"{split.num_utterances} utterances in {split.folder}"
            for split in splits
            if split.num_utterances != self.official_sizes.get(split.folder, split.num_utterances)
        ]
