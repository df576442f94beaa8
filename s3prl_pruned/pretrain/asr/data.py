"""Labelled speech: utterances with transcripts, and padded training batches that are a function of seed and number."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.data.batches import RandomCropBatches
from s3prl_pruned.data.corpus import embedded_corpus, read_split
from s3prl_pruned.data.manifest import Utterance
from s3prl_pruned.data.waveforms import SAMPLE_RATE, collate, num_samples
from s3prl_pruned.models.spec import EncoderConfig
from s3prl_pruned.objectives.ctc import Characters, frames_needed
from s3prl_pruned.pretrain.asr.config import AsrDataConfig

logger = logging.getLogger(__name__)

LabelledBatch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""wavs (B, S) float32, lengths (B,) int64, targets (B, U) int64 padded with 0, target lengths (B,) int64."""


@dataclass(frozen=True)
class Labelled:
    """One utterance and what is said in it."""

    utterance: Utterance
    transcript: str


def corpus_root(datarc: AsrDataConfig) -> Path:
    """`corpus`, or the embedded one.

    Raises:
        UserError: it is a file, or none is given and the embedded one lacks a named folder.
    """
    named = [*(datarc.sets or ()), *(datarc.dev_sets or ()), *(datarc.test_sets or ())]
    root = embedded_corpus() if datarc.corpus is None else Path(datarc.corpus)
    if datarc.corpus is None and not all((root / name).is_dir() for name in named):
        raise UserError(
            f"the settings name folders of a corpus, {named}, but no corpus is given. Add --corpus /data/LibriSpeech"
        )
    if not root.is_dir():
        raise UserError(f"{root}: must be a folder in LibriSpeech's layout, with *.trans.txt beside the audio.")
    return root


def read_sets(root: Path, sets: Sequence[str] | None) -> list[Labelled]:
    """The labelled utterances of some folders, in the order of the folders and of the ids.

    Raises:
        UserError: a folder has no transcripts, a transcript no audio, or audio cannot be read.
    """
    found = []
    for name in sets or ():
        for line in read_split(root, name):
            utterance = Utterance(f"{name}/{line.id}", line.path, num_samples(line.path))
            found.append(Labelled(utterance, " ".join(line.text.split())))
    return found


def transcripts(labelled: Sequence[Labelled]) -> dict[str, str]:
    """By utterance."""
    return {item.utterance.id: item.transcript for item in labelled}


class LabelledBatches(RandomCropBatches):
    """Endless training batches of whole utterances, padded; `batch(index)` needs nothing that went before.

    The order is `RandomCropBatches`': utterances of similar length share a batch. Left out are utterances shorter than
    `min_seconds` or longer than `max_seconds`, and those too short for CTC to write their transcript.

    Args:
        labelled: of `read_sets`.
        characters: what the transcripts are written in.
        config: of the encoder, which says how many frames it makes, and whether waveforms are normalised.
        datarc: batch sizes and lengths.
        seed: a whole number, 0 or more.
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
                f"`max_seconds` = {datarc.max_seconds} s long. Raise it, or look at the transcripts."
            )
        if len(kept) < len(labelled):
            logger.warning(
                "%d of %d training utterances are left out: longer than %s s, without words, or too short for theirs.",
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

    def batch(self, index: int) -> LabelledBatch:  # type: ignore[override]  # with targets, where the base has none
        """The batch number `index` (0, 1, ...) of the whole run: `LabelledBatch`.

        Raises:
            UserError: as `RandomCropBatches.batch`.
        """
        members = self.members(index)
        pairs = [(wav, member) for member in members if (wav := self._read(member)) is not None]
        if not pairs:
            raise UserError(
                f"none of the files of one batch can be decoded: {', '.join(m.id for m in members)}. Repair them."
            )
        wavs, lengths = collate([wav for wav, _ in pairs])
        targets = [torch.tensor(self._targets[member.id]) for _, member in pairs]
        padded = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True)
        return wavs, lengths, padded, torch.tensor([len(target) for target in targets])
