"""Labelled speech: utterances with transcripts, and padded training batches that depend only on seed and number."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.data.batches import RandomCropBatches
from s3prl_pruned.data.corpus import embedded_corpus, read_split
from s3prl_pruned.data.lengths import late_bar, lengths_of
from s3prl_pruned.data.manifest import Utterance, speech_digest
from s3prl_pruned.data.waveforms import SAMPLE_RATE, collate
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.objectives.ctc import Characters, frames_needed
from s3prl_pruned.pretrain.asr.config import AsrDataConfig

logger = logging.getLogger(__name__)

LabelledBatch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""wavs (B, S) float32, lengths (B,) int64, targets (B, U) int64 padded with 0, target lengths (B,) int64."""


@dataclass(frozen=True)
class Labelled:
    """One utterance and its transcript."""

    utterance: Utterance
    transcript: str


def corpus_root(datarc: AsrDataConfig) -> Path:
    """The folder `corpus`, or that of the embedded corpus.

    Raises:
        UserError: it is a file, or no corpus is set and the embedded one lacks a named folder.
    """
    named = [*(datarc.sets or ()), *(datarc.dev_sets or ()), *(datarc.test_sets or ())]
    root = embedded_corpus() if datarc.corpus is None else Path(datarc.corpus)
    if datarc.corpus is None and not all((root / name).is_dir() for name in named):
        raise UserError(
            f"the settings name folders of a corpus, {named}, but no corpus is set. Add --corpus /data/LibriSpeech"
        )
    if not root.is_dir():
        raise UserError(f"{root}: must be a folder in LibriSpeech's layout, with *.trans.txt beside the audio.")
    return root


def read_sets(root: Path, sets: Sequence[str] | None) -> list[Labelled]:
    """The labelled utterances of some folders, ordered by folder and then by id.

    Raises:
        UserError: a folder has no transcripts, a transcript has no audio, or audio cannot be read.
    """
    lines = [(name, line) for name in sets or () for line in read_split(root, name)]
    lengths = lengths_of([line.path for _, line in lines], root=root, progress=late_bar)
    found = []
    for (name, line), length in zip(lines, lengths, strict=True):
        if isinstance(length, UserError):
            raise length
        found.append(Labelled(Utterance(f"{name}/{line.id}", line.path, length), " ".join(line.text.split())))
    return found


def read_corpus(datarc: AsrDataConfig) -> tuple[list[Labelled], list[Labelled], list[Labelled]]:
    """Training, dev and test speech that a configuration names.

    Raises:
        UserError: as in `corpus_root` and `read_sets`.
    """
    root = corpus_root(datarc)
    training, dev, test = (read_sets(root, sets) for sets in (datarc.sets, datarc.dev_sets, datarc.test_sets))
    return training, dev, test


def labelled_digest(*parts: Sequence[Labelled]) -> str:
    """`speech_digest` over training, dev and test speech."""
    items = [item for part in parts for item in part]
    return speech_digest([item.utterance for item in items], texts=[item.transcript for item in items])


def transcripts(labelled: Sequence[Labelled]) -> dict[str, str]:
    """Transcripts by id of the utterance."""
    return {item.utterance.id: item.transcript for item in labelled}


class LabelledBatches(RandomCropBatches):
    """Endless training batches of whole utterances, padded; `batch(index)` does not depend on earlier batches.

    The order is that of `RandomCropBatches`: utterances of similar length share a batch. Utterances shorter than
    `min_seconds` or longer than `max_seconds` are left out, as are those too short for CTC to output their transcript.

    Args:
        labelled: result of `read_sets`.
        characters: alphabet of the transcripts.
        config: the encoder's, for the number of frames and whether waveforms are normalised.
        datarc: batch sizes and lengths.
        seed: an integer, 0 or more.
    """

    def __init__(
        self,
        labelled: Sequence[Labelled],
        characters: Characters,
        config: EncoderConfig,
        datarc: AsrDataConfig,
        *,
        seed: int,
    ):
        self._targets = {item.utterance.id: characters.encode(item.transcript) for item in labelled}
        most = round(datarc.max_seconds * SAMPLE_RATE)

        def usable(item: Labelled) -> bool:
            target = self._targets[item.utterance.id]
            frames = int(config.num_frames(item.utterance.num_samples))
            return bool(target) and item.utterance.num_samples <= most and frames_needed(target) <= frames

        kept = [item.utterance for item in labelled if usable(item)]
        if not kept:
            raise UserError(
                f"none of the {len(labelled)} training utterances has a transcript that fits its audio and is at most "
                f"`max_seconds` = {datarc.max_seconds} s long. Raise it, or check the transcripts."
            )
        if len(kept) < len(labelled):
            logger.warning(
                "%d of %d training utterances are left out: longer than %s s, without words, or too short for CTC.",
                len(labelled) - len(kept), len(labelled), datarc.max_seconds,
            )  # fmt: skip
        super().__init__(
            kept,
            batch_size=datarc.train_batch_size,
            max_seconds=datarc.max_seconds,
            min_seconds=datarc.min_seconds,
            max_batch_seconds=datarc.max_batch_seconds,
            seed=seed,
            normalize=config.normalize_waveform,
        )

    def _common_length(self, lengths: np.ndarray) -> int:
        return int(lengths.max())

    def batch(  # type: ignore[override]  # with targets, where the base has none
        self, index: int, part: int = 0, parts: int = 1
    ) -> LabelledBatch:
        """Batch number `index` (0, 1, ...) of the whole run, or a part of it: `LabelledBatch`.

        A part is padded like the whole batch, since padding affects the encoder's output.

        Raises:
            UserError: as in `RandomCropBatches.batch`.
        """
        number, read = self.read(index, part, parts)
        members = self.members(number)
        wavs, lengths = collate([wav for _, wav in read])
        longest = max(member.num_samples for member in members)
        wavs = torch.nn.functional.pad(wavs, (0, max(0, longest - wavs.shape[1])))
        targets = [torch.tensor(self._targets[members[place].id]) for place, _ in read]
        padded = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True)
        return wavs, lengths, padded, torch.tensor([len(target) for target in targets])
