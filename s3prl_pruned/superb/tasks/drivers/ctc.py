"""What PR and SF share: s3prl's ``ctc``, whose package lacks its readers of corpora and its vocabularies.

A driver checks its corpus once and writes one list per folder, ``[[file, text], ...]`` as JSON, into the cache; the
reader here takes that list, whatever the corpus.
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
    """Splits are named by the settings (``corpus.train``, ``corpus.dev``, ``corpus.test``), each a list of folders."""

    optional_settings = ("corpus.lexicon", "text.vocab_file")
    required: ClassVar[dict[str, Any]] = {}
    """Settings that must have these values: the task is known by them, and its checkpoint is chosen by them."""

    def check(self, config: dict[str, Any]) -> None:
        """Refuse other values of what the task is known by, and a training without a development set."""
        for path, value in self.required.items():
            if settings.get(config, path) != value:
                raise UserError(f"config.{path}: must be {value!r}, but is {settings.get(config, path)!r}.")
        settings.check_dev_is_evaluated(config)

    def folders(self, args: argparse.Namespace, config: dict[str, Any]) -> list[tuple[str, str]]:
        """Split and folder of all that a call reads.

        Args:
            args: s3prl's arguments; ``mode`` and ``evaluate_split`` say what will be read.
            config: the settings.

        Raises:
            UserError: on a split that there is not.
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
        """Give s3prl the reader of lists that its package lacks."""
        experts.read_ctc_corpora_by(create_dataset)

    def printed(self, evaluation: Evaluation, text: str) -> list[Value]:
        """What s3prl printed of the task's metrics."""
        split, values = evaluation.run.args.evaluate_split, []
        for metric in self.task.metrics:
            found = re.findall(rf"^{split} {metric.name}: (\S+)$", text, flags=re.MULTILINE)
            if not found:
                raise RuntimeError(f"{split}: s3prl printed no {metric.name}.")
            values.append(Value(name=metric.name, value=float(found[-1]), unit=metric.printed))
        return values

    def texts(self, evaluation: Evaluation) -> tuple[dict[str, str], dict[str, str]]:
        """Hypotheses and references by utterance, as s3prl kept them."""
        folder, split = evaluation.run.folder, evaluation.run.args.evaluate_split
        return read_hypotheses(folder, split)


def write_list(folder: Path, name: str, utterances: Iterable[tuple[str, str]]) -> None:
    """Write what ``create_dataset`` reads: file below the corpus and text of each utterance of a folder."""
    corpora.write_once(folder / f"{name}.json", json.dumps(list(utterances)))


def write_vocabulary(folder: Path, name: str, symbols: Iterable[str]) -> Path:
    """Write a vocabulary as s3prl reads it, a symbol a line, none after the last."""
    return corpora.write_once(folder / name, "\n".join(symbols))


def create_dataset(
    split: str, tokenizer: Any, name: str, bucketing: bool, batch_size: int, **corpus: Any
) -> tuple[ListedUtterances, int]:
    """In place of s3prl's function of this name (``ctc/data.py``): the dataset of a split, and the loader's batch size.

    In training with ``bucketing`` one item is a whole batch. Evaluation is of single utterances.
    """
    utterances = []
    for folder in corpus[split]:
        listed = json.loads((Path(corpus["lists"]) / f"{folder}.json").read_text(encoding="utf-8"))
        utterances += [(f"{corpus['path']}/{file}", tokenizer.encode(text)) for file, text in listed]
    if split != "train":
        return ListedUtterances(utterances, bucket_size=1), 1
    return ListedUtterances(utterances, bucket_size=batch_size if bucketing else 1), 1 if bucketing else batch_size


class ListedUtterances:
    """Utterances from the longest text to the shortest: a dataset of single ones, or of batches of neighbours.

    As s3prl's, there are as many batches as utterances: one begins at each, and those that would not be full are the
    last full one.

    Args:
        utterances: file and tokens.
        bucket_size: utterances in a batch; 1 gives single ones.
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
