"""SF: s3prl's ``ctc`` on Audio SNIPS, with tags for the begin and end of slots in the text."""

from __future__ import annotations

import argparse
import logging
import string
from pathlib import Path
from typing import Any, ClassVar

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.metrics.edits import slot_type_f1, slot_value_cer
from s3prl_pruned.superb.results.result import SplitRead
from s3prl_pruned.superb.tasks import corpora
from s3prl_pruned.superb.tasks.driver import Evaluation, EvaluationMetrics
from s3prl_pruned.superb.tasks.drivers.ctc import TextRecognition, write_list, write_vocabulary

logger = logging.getLogger(__name__)

TRANSCRIPTS = "all.iob.snips.txt"
"""Lines ``<id> BOS WORD WORD EOS<TAB>O tag tag intent`` of all speakers and splits; an id is
``<speaker>-snips-<split>-<number>``."""

CHARACTERS = [" ", *string.ascii_uppercase, "'"]
"""The characters, in the order of s3prl's ``ctc/vocab/character.txt``. All other characters of a transcript become
the unknown character."""


class SlotFilling(TextRecognition):
    """The benchmark's speakers are in the settings: different ones for the training, development and test sets."""

    optional_settings = ("text.vocab_file", "text.slots_file")
    best_rule = "highest slot type F1 on dev"
    no_best_rule = "the last one, since the slot type F1 on dev never got above 0"
    criterion = ("slot_type_f1", "fraction")
    # From s3prl's test/test_snips.py.
    official_sizes: ClassVar[dict[str, int]] = {"train": 104_672, "valid": 2_800, "test": 2_800}
    required: ClassVar[dict[str, Any]] = {
        "downstream_expert.corpus.name": "snips",
        "downstream_expert.text.mode": "character-slot",
        "downstream_expert.metric_higher_better": True,
    }

    def check(self, config: dict[str, Any]) -> None:
        """As in ``ctc``; also refuse metrics without the benchmark's two."""
        super().check(config)
        metrics = config["downstream_expert"]["metric"]
        if metrics[:1] != ["slot_type_f1"] or "slot_value_cer" not in metrics:
            raise UserError(
                "config.downstream_expert.metric: must begin with slot_type_f1 and hold slot_value_cer, "
                f"but is {metrics}."
            )

    def prepare(
        self, args: argparse.Namespace, config: dict[str, Any], *, corpus: Path, s3prl_root: Path | None
    ) -> list[SplitRead]:
        """Pair each speaker's audio with its tagged text and list them for s3prl; write the characters."""
        settings, text = config["downstream_expert"]["corpus"], config["downstream_expert"]["text"]
        folders = self.folders(args, config)
        parts = [TRANSCRIPTS, *(f"{name}/" for _, name in folders)]
        slots_file = Path(text.get("slots_file") or corpus / "slots.txt")
        if slots_file.parent == corpus:
            parts.append(slots_file.name)
        layout = f"the folder of {self.task.corpus}, as s3prl's preprocess/snips_prepare_data.sh makes it"
        corpora.require(corpus, parts, layout=layout)
        slots = set(_read(slots_file).split("\n")[1:])  # the first line is O
        transcripts = _read_transcripts(corpus / TRANSCRIPTS)
        read, lists = [], {}
        for key, name in folders:
            setting = f"{settings[key][0]}_speakers"
            speakers = settings.get(setting)
            if not isinstance(speakers, list) or not speakers:
                raise UserError(
                    f"config.downstream_expert.corpus.{setting}: must be a list of speakers, but is {speakers!r}."
                )
            lists[name] = _find_utterances(corpus, name, speakers, transcripts, slots)
            sha256 = corpora.digest(corpus, lists[name], more="\n".join([*sorted(slots), *lists[name].values()]))
            read.append(SplitRead(key=key, folder=name, num_utterances=len(lists[name]), sha256=sha256))
        cache = corpora.splits_folder("snips", corpus, read)
        for name, listed in lists.items():
            if not (cache / f"{name}.json").is_file():
                corpora.check_audio((corpus / file for file in listed), why="s3prl reads it as such")
                write_list(cache, name, listed.items())
        settings |= {"path": str(corpus), "lists": str(cache)}
        text |= {
            "slots_file": str(slots_file),
            "vocab_file": str(write_vocabulary(cache, "characters.txt", CHARACTERS)),
        }
        return read

    def read_metrics(self, evaluation: Evaluation, text: str) -> EvaluationMetrics:
        """Slot type F1 and slot value CER of the hypotheses that s3prl saved."""
        hypotheses, references = self.texts(evaluation)
        values = {
            "slot_type_f1": slot_type_f1(hypotheses, references),
            "slot_value_cer": slot_value_cer(hypotheses, references),
        }
        return EvaluationMetrics(
            metrics=[Value(name=name, value=value, unit="fraction") for name, value in values.items()],
            printed=self.printed(evaluation, text),
            num_utterances=len(references),
        )


def _read_transcripts(path: Path) -> dict[str, str]:
    """Words and tags by id, separated by a tab."""
    transcripts = {}
    for number, line in enumerate(_read(path).splitlines(), start=1):
        key, _, text = line.strip().partition(" ")
        words, tab, tags = text.partition("\t")
        if not tab or len(words.split(" ")) > len(tags.split(" ")):
            raise UserError(
                f"{path}, line {number}: must be `<id> BOS <words> EOS<TAB>` and a tag for each, but is {line!r}."
            )
        transcripts[key] = text
    return transcripts


def _find_utterances(
    corpus: Path, folder: str, speakers: list[str], transcripts: dict[str, str], slots: set[str]
) -> dict[str, str]:
    """The texts of these speakers, by file below the corpus.

    Raises:
        UserError: if there are none, or a text has a slot that is not listed.
    """
    found, silent = {}, []
    for path in sorted((corpus / folder).rglob("*.wav")):
        if path.stem not in transcripts:
            silent.append(path.name)
        elif path.stem.startswith(tuple(speakers)):
            found[path.relative_to(corpus).as_posix()] = transcripts[path.stem]
    if silent:
        logger.warning(
            "%s: %d files without a transcript are left out, as s3prl does (first %s).", folder, len(silent), silent[0]
        )
    if not found:
        raise UserError(
            f"{corpus / folder}: must hold <speaker>-snips-<split>-<number>.wav of {', '.join(speakers)} with a line "
            f"in {TRANSCRIPTS}, but holds none."
        )
    used = {tag for text in found.values() for tag in text.partition("\t")[2].split(" ")[1:-1]} - {"O"}
    if unknown := sorted(used - slots):
        raise UserError(
            f"{corpus / TRANSCRIPTS}: every slot must be in slots.txt, but {', '.join(unknown[:5])} is not."
        )
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
