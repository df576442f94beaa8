"""The ten SUPERB tasks as data: names, metrics, units, constants of the score.

Sources: Yang et al. 2021 (the benchmark) and s3prl 0.4.18 (names and what each task prints); superbbenchmark.org for
the constants of the two scales. All constants are in percent, QbE's MTWV x 100.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Literal

from s3prl_pruned.config import UserError

Unit = Literal["percent", "fraction"]

DOUBTFUL = 300.0
"""Percent. A higher error rate means three errors per reference unit: most likely its unit is wrong."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """One number of one metric, with its unit.

    Magnitude cannot tell the unit: FBANK's MTWV is 0.58 percent, and an error rate may exceed 1 (fraction) and 100
    (percent).
    """

    name: str
    """The metric, such as ``wer``."""
    value: float
    unit: Unit

    @property
    def percent(self) -> float:
        """The value in percent."""
        return self.value if self.unit == "percent" else 100 * self.value


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric that counts in the score. Constants in percent."""

    name: str
    better: Literal["up", "down"]
    fbank: float
    """FBANK's value, which is 0 on both scales."""
    sota_paper: float
    """The value that is 1000 on the paper's scale (WavLM Large)."""
    sota_leaderboard: float
    """The value that is 1000 on the leaderboard's scale."""
    printed: Unit
    """The unit of s3prl's own output."""
    lowest: float = 0.0
    """The least possible value, in percent."""
    highest: float = 100.0
    """The greatest possible value, in percent; infinite for rates that count insertions."""

    def check(self, value: Value, where: str) -> None:
        """Refuse an impossible value.

        Args:
            value: of this metric.
            where: where the value comes from, for the message.

        Raises:
            UserError: if the value is not finite or out of range in its unit.
        """
        if not math.isfinite(value.value):
            raise UserError(f"{where}: {self.name} must be a finite number, but is {value.value}.")
        if not self.lowest <= value.percent <= self.highest:
            allowed = f"between {self.lowest:g} and {self.highest:g} percent"
            if math.isinf(self.highest):
                allowed = f"at least {self.lowest:g} percent"
            raise UserError(f"{where}: {self.name} must be {allowed}, but is {value.value:g} {value.unit}.")

    def doubt(self, value: Value) -> str | None:
        """Why a possible value is implausible, in words; None if it is plausible."""
        if self.better == "up" or value.percent <= DOUBTFUL:
            return None
        return f"{value.name} is {value.percent:g} % ({value.value:g} {value.unit}), above {DOUBTFUL:g} %"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One of the ten tasks."""

    name: str
    """The usual short name, also the name of our folder."""
    title: str
    downstream: str
    """The task's name in s3prl, ``-d``."""
    metrics: tuple[Metric, ...]
    test_split: str
    """s3prl's ``-t`` for the reported result."""
    corpus: str
    corpus_keys: tuple[str, ...]
    """Config keys below ``downstream_expert`` that hold the corpus's root folder."""
    corpus_source: str
    """Where the corpus is to be had."""

    @property
    def label(self) -> str:
        """The short name as papers print it, such as ``ASR`` and ``QbE``."""
        return "QbE" if self.name == "qbe" else self.name.upper()


def _rate(name: str, *, fbank: float, paper: float, board: float, printed: Unit) -> Metric:
    """An error rate that counts insertions, and so has no upper bound."""
    return Metric(
        name=name, better="down", fbank=fbank, sota_paper=paper, sota_leaderboard=board,
        printed=printed, highest=math.inf,
    )  # fmt: skip


def _accuracy(fbank: float, paper: float, board: float) -> Metric:
    return Metric(name="acc", better="up", fbank=fbank, sota_paper=paper, sota_leaderboard=board, printed="fraction")


LIBRISPEECH = "LibriSpeech train-clean-100, dev-clean, test-clean"
OPENSLR = "https://www.openslr.org/12"
VOXCELEB = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html"

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="pr", title="phoneme recognition", downstream="ctc", test_split="test",
            metrics=(_rate("per", fbank=82.01, paper=3.06, board=3.53, printed="fraction"),),
            corpus=LIBRISPEECH, corpus_keys=("corpus.path",), corpus_source=OPENSLR,
        ),
        Task(
            name="asr", title="speech recognition", downstream="asr", test_split="test-clean",
            metrics=(_rate("wer", fbank=23.18, paper=3.44, board=3.62, printed="percent"),),
            corpus=LIBRISPEECH, corpus_keys=("datarc.libri_root",), corpus_source=OPENSLR,
        ),
        Task(
            name="ks", title="keyword spotting", downstream="speech_commands", test_split="test",
            metrics=(_accuracy(41.38, 97.86, 96.66),),
            corpus="Speech Commands v0.01 and its test set",
            corpus_keys=("datarc.speech_commands_root", "datarc.speech_commands_test_root"),
            corpus_source="http://download.tensorflow.org/data/speech_commands_v0.01.tar.gz and "
            "http://download.tensorflow.org/data/speech_commands_test_set_v0.01.tar.gz",
        ),
        Task(
            name="qbe", title="query by example", downstream="quesst14_dtw", test_split="test",
            metrics=(
                Metric(
                    name="mtwv", better="up", fbank=0.58, sota_paper=8.86, sota_leaderboard=7.36,
                    printed="fraction", lowest=-math.inf,
                ),
            ),
            corpus="QUESST 2014", corpus_keys=("datarc.dataset_root",),
            corpus_source="https://speech.fit.vutbr.cz/files/quesst14Database.tgz",
        ),
        Task(
            name="sid", title="speaker identification", downstream="voxceleb1", test_split="test",
            metrics=(_accuracy(20.06, 95.49, 90.33),),
            corpus="VoxCeleb1", corpus_keys=("datarc.file_path",), corpus_source=VOXCELEB,
        ),
        Task(
            name="sv", title="speaker verification", downstream="sv_voxceleb1", test_split="test",
            metrics=(
                Metric(
                    name="eer", better="down", fbank=9.56, sota_paper=3.77, sota_leaderboard=5.11,
                    printed="fraction",
                ),
            ),
            corpus="VoxCeleb1", corpus_keys=("datarc.file_path",), corpus_source=VOXCELEB,
        ),
        Task(
            name="sd", title="speaker diarization", downstream="diarization", test_split="test",
            metrics=(_rate("der", fbank=10.05, paper=3.24, board=5.62, printed="percent"),),
            corpus="Libri2Mix for diarization",
            corpus_keys=("loaderrc.train_dir", "loaderrc.dev_dir", "loaderrc.test_dir"),
            corpus_source="made from LibriSpeech by https://github.com/s3prl/LibriMix",
        ),
        Task(
            name="ic", title="intent classification", downstream="fluent_commands", test_split="test",
            metrics=(_accuracy(9.65, 99.31, 98.76),),
            corpus="Fluent Speech Commands", corpus_keys=("datarc.file_path",),
            corpus_source="https://fluent.ai/fluent-speech-commands-a-dataset-for-spoken-language-"
            "understanding-research/",
        ),
        Task(
            name="sf", title="slot filling", downstream="ctc", test_split="test",
            metrics=(
                Metric(
                    name="slot_type_f1", better="up", fbank=69.64, sota_paper=92.21,
                    sota_leaderboard=89.81, printed="fraction",
                ),
                _rate("slot_value_cer", fbank=52.94, paper=18.36, board=21.76, printed="fraction"),
            ),
            corpus="Audio SNIPS", corpus_keys=("corpus.path", "text.slots_file"),
            corpus_source="https://github.com/aws-samples/aws-lex-noisy-spoken-language-understanding",
        ),
        Task(
            name="er", title="emotion recognition", downstream="emotion", test_split="test",
            metrics=(_accuracy(48.24, 70.62, 67.62),),
            corpus="IEMOCAP", corpus_keys=("datarc.root",), corpus_source="https://sail.usc.edu/iemocap/",
        ),
    )
}  # fmt: skip
"""Tasks by short name, in the order of the benchmark's paper."""


def find_task(name: str) -> Task:
    """Find a task by its short name (``asr``) or s3prl's ``-d`` (``speech_commands``).

    Raises:
        UserError: on an unknown name (the message suggests the nearest), or ``ctc``, which serves two tasks.
    """
    if name in TASKS:
        return TASKS[name]
    matches = [task for task in TASKS.values() if task.downstream == name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        choices = " or ".join(f"-d {task.name} ({task.title})" for task in matches)
        raise UserError(f"-d {name} serves two tasks. Give {choices}.")
    known = [*TASKS, *(task.downstream for task in TASKS.values())]
    nearest = difflib.get_close_matches(name.lower(), known, n=1)
    advice = f"Did you mean `{nearest[0]}`?" if nearest else f"The ten are: {', '.join(TASKS)}."
    raise UserError(f"-d {name}: no such SUPERB task. {advice}")
