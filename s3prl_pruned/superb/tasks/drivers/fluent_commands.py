"""IC: s3prl's ``fluent_commands`` on Fluent Speech Commands; all three slots must be right."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any, ClassVar

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.results.result import SplitRead
from s3prl_pruned.superb.tasks import corpora
from s3prl_pruned.superb.tasks.driver import Evaluation
from s3prl_pruned.superb.tasks.drivers.classification import Classification

FILES = {"train": "data/train_data.csv", "dev": "data/valid_data.csv", "test": "data/test_data.csv"}
SLOTS = ("action", "object", "location")


class IntentClassification(Classification):
    """The three lists are the corpus's own; a slot's classes are its values in the training set."""

    official_sizes: ClassVar[dict[str, int]] = {"train": 23_132, "dev": 3_118, "test": 3_793}

    def prediction_files(self, evaluation: Evaluation) -> tuple[Path, Path]:
        """The files of an evaluation's predictions and truth, which s3prl's expert writes as CSV."""
        folder, split = evaluation.run.folder, evaluation.run.args.evaluate_split
        return folder / f"{split}_predict.csv", folder / f"{split}_truth.csv"

    def prepare(
        self, args: argparse.Namespace, config: dict[str, Any], *, corpus: Path, s3prl_root: Path | None
    ) -> list[SplitRead]:
        """Read the corpus's three lists; every slot's value must occur in the training set."""
        self.check_split(args.evaluate_split)
        corpora.require(corpus, [*FILES.values(), "wavs/"], layout=f"the folder of {self.task.corpus}")
        rows = {key: _read_rows(corpus / name) for key, name in FILES.items()}
        known = {slot: {row[slot] for row in rows["train"]} for slot in SLOTS}
        for key, found in rows.items():
            corpora.refuse_missing_files(corpus, (row["path"] for row in found), FILES[key])
            for row in found:
                for slot in SLOTS:
                    if row[slot] not in known[slot]:
                        raise UserError(
                            f"{corpus / FILES[key]}: every {slot} must be in {FILES['train']} too, but "
                            f"{row[slot]!r} of {row['path']} is not. s3prl's classes are those of the training set."
                        )
        read = []
        for key, found in rows.items():
            labels = "\n".join(" ".join(row[slot] for slot in SLOTS) for row in found)
            sha256 = corpora.digest(corpus, (row["path"] for row in found), more=labels)
            read.append(SplitRead(key=key, folder=key, num_utterances=len(found), sha256=sha256))
        paths = (corpus / row["path"] for found in rows.values() for row in found)
        cache = corpora.splits_folder("fluent_commands", corpus, read)
        corpora.check_audio_once(paths, cache=cache, why="s3prl reads it as such")
        config["downstream_expert"]["datarc"]["file_path"] = str(corpus)
        return read


def _read_rows(path: Path) -> list[dict[str, str]]:
    """The lines of one of the corpus's lists.

    Raises:
        UserError: if it is empty, or no table with the columns that s3prl reads.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a table ({error}).") from error
    columns = ("path", *SLOTS)
    if not rows or not all(row.get(column) for row in rows for column in columns):
        there = ", ".join(filter(None, rows[0])) if rows else "no lines"
        raise UserError(f"{path}: every line must have {', '.join(columns)}, but it has {there}, or a line has fewer.")
    return rows
