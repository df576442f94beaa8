"""Common to PR and SF: s3prl's ``ctc``, whose package lacks its corpus readers and vocabularies.

A driver checks its corpus once and writes one list per folder, ``[[file, text], ...]`` as JSON, into the cache; the
reader here reads this list for any corpus.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from s3prl_pruned.compat import experts
from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.results.arks import read_hypotheses
from s3prl_pruned.superb.tasks import corpora, settings
from s3prl_pruned.superb.tasks.driver import DownstreamRun, Driver, Evaluation


class TextRecognition(Driver):
    """The settings name the splits (``corpus.train``, ``corpus.dev``, ``corpus.test``), each a list of folders."""

    optional_settings = ("corpus.lexicon", "text.vocab_file")
    required: ClassVar[dict[str, Any]] = {}
    """Settings that must have these values: they identify the task and decide how its checkpoint is chosen."""

    def check(self, config: dict[str, Any]) -> None:
        """Refuse other values of the required settings, and training without a development set."""
        for path, value in self.required.items():
            if settings.get(config, path) != value:
                raise UserError(f"config.{path}: must be {value!r}, but is {settings.get(config, path)!r}.")
        settings.check_dev_is_evaluated(config)

    def folders(self, args: argparse.Namespace, config: dict[str, Any]) -> list[tuple[str, str]]:
        """Split and folder of everything that a call reads.

        Args:
            args: s3prl's arguments; ``mode`` and ``evaluate_split`` say what will be read.
            config: the settings.

        Raises:
            UserError: on an unknown split.
        """
        if args.evaluate_split not in ("dev", "test"):
            raise UserError(f"-t {args.evaluate_split}: {self.task.name} has the splits dev, test.")
        trained, evaluated = ["train", "dev"], [args.evaluate_split]
        keys = {"train": trained, "evaluate": evaluated}.get(args.mode, trained + evaluated)
        corpus = config["downstream_expert"]["corpus"]
        for key in keys:
            if not isinstance(corpus.get(key), list) or not corpus[key]:
                raise UserError(
                    f"config.downstream_expert.corpus.{key}: must be a list of folders, but is {corpus.get(key)!r}."
                )
        return [(key, folder) for key in dict.fromkeys(keys) for folder in corpus[key]]

    def adapt(self, run: DownstreamRun) -> None:
        """Give s3prl a reader of lists, which its package lacks."""
        experts.read_ctc_corpora_by(create_dataset)

    def printed(self, evaluation: Evaluation, text: str) -> list[Value]:
        """The task's metrics as s3prl printed them."""
        split, values = evaluation.run.args.evaluate_split, []
        for metric in self.task.metrics:
            found = re.findall(rf"^{split} {metric.name}: (\S+)$", text, flags=re.MULTILINE)
            if not found:
                raise RuntimeError(f"{split}: s3prl printed no {metric.name}.")
            values.append(Value(name=metric.name, value=float(found[-1]), unit=metric.printed))
        return values

    def texts(self, evaluation: Evaluation) -> tuple[dict[str, str], dict[str, str]]:
        """Hypotheses and references by utterance, as s3prl saved them."""
        folder, split = evaluation.run.folder, evaluation.run.args.evaluate_split
        return read_hypotheses(folder, split)


def write_list(folder: Path, name: str, utterances: Iterable[tuple[str, str]]) -> None:
    """Write the list that ``create_dataset`` reads: each utterance's file below the corpus and its text."""
    corpora.write_once(folder / f"{name}.json", json.dumps(list(utterances)))


def write_vocabulary(folder: Path, name: str, symbols: Iterable[str]) -> Path:
    """Write a vocabulary as s3prl reads it: one symbol per line, no newline after the last."""
    return corpora.write_once(folder / name, "\n".join(symbols))


def create_dataset(
    split: str, tokenizer: Any, name: str, bucketing: bool, batch_size: int, **corpus: Any
) -> tuple[ListedUtterances, int]:
    """Replaces s3prl's function of this name (``ctc/data.py``): the dataset of a split, and the loader's batch size.

    In training with ``bucketing``, one item is a whole batch. Evaluation uses single utterances.
    """
    utterances = []
    for folder in corpus[split]:
        listed = json.loads((Path(corpus["lists"]) / f"{folder}.json").read_text(encoding="utf-8"))
        utterances += [(f"{corpus['path']}/{file}", tokenizer.encode(text)) for file, text in listed]
    if split != "train":
        return ListedUtterances(utterances, bucket_size=1), 1
    return ListedUtterances(utterances, bucket_size=batch_size if bucketing else 1), 1 if bucketing else batch_size


class ListedUtterances:
    """Utterances sorted from the longest text to the shortest: a dataset of single utterances, or of batches.

    As in s3prl, there are as many batches as utterances: one begins at each utterance, and in place of the incomplete
    batches at the end the last full batch is repeated.

    Args:
        utterances: file and tokens of each.
        bucket_size: utterances per batch; 1: single utterances.
    """

    def __init__(self, utterances: list[tuple[str, list[int]]], *, bucket_size: int) -> None:
        self.utterances = sorted(utterances, key=lambda utterance: len(utterance[1]), reverse=True)
        self.bucket_size = bucket_size

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> tuple[str, list[int]] | list[tuple[str, list[int]]]:
        if self.bucket_size == 1:
            return self.utterances[index]
        start = max(0, min(len(self) - self.bucket_size, index))
        return self.utterances[start : start + self.bucket_size]
