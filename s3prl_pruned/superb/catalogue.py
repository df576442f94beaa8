"""The ten SUPERB tasks as data: names, metrics, units, constants of the score, published models.

Sources: Yang et al. 2021 (the benchmark) and s3prl 0.4.18 (names and what each task prints); Wang et al. 2023, Table 1;
superbbenchmark.org for the constants of the two scales and the leaderboard's scores; the papers named with each model
for the rest. All constants are in percent, QbE's MTWV x 100.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field
from typing import Literal

from s3prl_pruned.config import UserError

Unit = Literal["percent", "fraction"]

DOUBTFUL = 300.0
"""Percent. An error rate above it would have three errors for each unit of the reference: mostly a wrong unit."""


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
    """FBANK's value: 0 on both scales."""
    sota_paper: float
    """1000 on the paper's scale (WavLM Large)."""
    sota_leaderboard: float
    """1000 on the leaderboard's scale."""
    printed: Unit
    """The unit of s3prl's own output."""
    lowest: float = 0.0
    """The least possible value, in percent."""
    highest: float = 100.0
    """The greatest possible value, in percent; infinite for rates that count insertions."""

    def check(self, value: Value, where: str) -> None:
        """Refuse a value that cannot be.

        Args:
            value: of this metric.
            where: it comes from, for the message.

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
        """Why a value that can be is hardly one, in words; None where there is nothing to say."""
        if self.better == "up" or value.percent <= DOUBTFUL:
            return None
        return f"{value.name} is {value.percent:g} % ({value.value:g} {value.unit}), above {DOUBTFUL:g} %"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One of the ten tasks."""

    name: str
    """The field's short name, our folder's name."""
    title: str
    downstream: str
    """s3prl's ``-d``."""
    metrics: tuple[Metric, ...]
    test_split: str
    """s3prl's ``-t`` for the reported number."""
    corpus: str
    corpus_keys: tuple[str, ...]
    """Config keys below ``downstream_expert`` that hold the corpus' root."""
    corpus_source: str
    """Where the corpus is to be had."""


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
"""By short name, in the order of the benchmark's paper."""


def find_task(name: str) -> Task:
    """The task of a short name (``asr``) or of s3prl's ``-d`` (``speech_commands``).

    Raises:
        UserError: on an unknown name (the nearest is named), or ``ctc``, which serves two tasks.
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


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """Published metrics of one model, percent."""

    model: str
    source: str
    params_millions: float | None = None
    table1_score: float | None = None
    """The score that Wang et al. 2023 print in Table 1."""
    leaderboard_score: float | None = None
    """The score that superbbenchmark.org shows."""
    metrics: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """By task, in the order of ``Task.metrics``."""


def _model(model: str, source: str, numbers: str, **scores: float | None) -> PublishedModel:
    """``numbers``: KS IC PR ASR ER QbE SF-F1/CER SID SV SD, as in Table 1."""
    order = ("ks", "ic", "pr", "asr", "er", "qbe", "sf", "sid", "sv", "sd")
    metrics = {task: tuple(map(float, text.split("/"))) for task, text in zip(order, numbers.split(), strict=True)}
    return PublishedModel(model=model, source=source, metrics=metrics, **scores)


WANG = "Wang et al. 2023, Table 1"

PUBLISHED: tuple[PublishedModel, ...] = (
    _model("wav2vec", WANG, "95.59 84.92 31.58 15.86 59.79 4.85 76.37/43.71 56.56 7.99 9.90",
         table1_score=491.59),
    _model("wav2vec2 Base", WANG, "96.23 92.35 5.74 6.43 63.43 2.33 88.3/24.77 75.18 6.02 6.08",
         params_millions=95.04, table1_score=735.00, leaderboard_score=818),
    _model("HuBERT Base", WANG, "96.30 98.34 5.41 6.42 64.92 7.36 88.53/25.2 81.42 5.11 5.88",
         params_millions=94.68, table1_score=837.63, leaderboard_score=941),
    _model("WavLM Base", WANG, "96.79 98.63 4.84 6.21 65.94 8.70 89.38/22.86 84.51 4.69 4.55",
         params_millions=94.70, table1_score=895.99, leaderboard_score=1019),
    _model("DistilHuBERT", WANG, "95.98 94.99 16.27 13.37 63.02 5.11 82.57/35.39 73.54 8.55 6.19",
         params_millions=23.49, table1_score=647.88, leaderboard_score=717),
    _model("DistilWavLM", WANG, "96.40 96.39 14.18 13.24 63.69 7.07 85.27/31.80 71.00 8.87 7.2",
         params_millions=23.5, table1_score=668.39),
    _model("Wang 2023, proposed", WANG, "96.57 98.08 9.09 10.61 63.61 7.40 87.14/27.13 74.56 6.17 6.11",
         params_millions=26.57, table1_score=769.62),
    _model("Wang 2023, w/o FAHP", WANG, "96.14 98.05 10.51 11.83 63.78 5.19 85.57/30.91 70.03 6.12 7.18",
         table1_score=721.79),
    _model("LightHuBERT small", "Wang R. et al. 2022",
         "96.07 98.23 6.60 8.34 64.12 7.64 87.58/26.90 69.70 5.42 5.85",
         params_millions=27.0, leaderboard_score=901),
    _model("DPHuBERT", "Peng et al. 2023", "96.36 97.92 9.67 10.47 63.16 6.93 86.86/28.26 76.83 5.84 5.92",
         params_millions=23.59, leaderboard_score=866),
    _model("DPWavLM (teacher Base+)", "Peng et al. 2023",
         "96.27 98.58 8.22 10.19 65.24 8.74 87.68/26.11 82.11 5.98 5.53",
         params_millions=23.59, leaderboard_score=926),
    _model("STaRHuBERT-L", "Jang et al. 2024", "96.56 97.50 7.97 8.91 63.48 6.77 88.01/25.36 78.66 5.45 5.83",
         params_millions=26.63, leaderboard_score=896),
)  # fmt: skip
"""Table 1's rows first, in its order."""
