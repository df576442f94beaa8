"""Speech with speakers: utterances of a folder in VoxCeleb1's layout, and cropped batches with numbers of speakers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.data.batches import RandomCropBatches, evenly
from s3prl_pruned.data.corpus import embedded_corpus
from s3prl_pruned.data.manifest import OPTION, Utterance, scan_corpus
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.objectives.verification import FEWEST_FRAMES
from s3prl_pruned.pretrain.sv.config import HELD_OUT_PER_SPEAKER, SvDataConfig

logger = logging.getLogger(__name__)

SpeakerBatch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""wavs (B, S) float32, lengths (B,) int64, all S, and numbers of speakers (B,) int64."""


@dataclass(frozen=True)
class SpeakerCorpus:
    """Utterances, and who speaks in them."""

    utterances: list[Utterance]
    names: list[str]
    """Speakers, sorted; their number in a batch is their place here."""
    speakers: dict[str, int]
    """Number of the speaker by id of the utterance."""


def read_corpus(datarc: SvDataConfig) -> SpeakerCorpus:
    """List the speech that a configuration names. The name of a folder with sessions is the speaker's.

    Raises:
        UserError: as in `scan_corpus`, a file is not in `<set>/<speaker>/<session>/`, or there is one speaker only.
    """
    root = embedded_corpus() if datarc.corpus is None else Path(datarc.corpus)
    if datarc.corpus is None and not all((root / name).is_dir() for name in datarc.sets or ()):
        raise UserError(
            f"the settings name folders of a corpus, {list(datarc.sets or ())}, but no corpus is set. Add --corpus "
            "/data/VoxCeleb1"
        )
    found, named = [], {}
    for utterance in scan_corpus(root, datarc.sets):
        folder = next((name for name in datarc.sets or () if utterance.path.is_relative_to(root / name)), "")
        parts = utterance.path.relative_to(root / folder).parts
        if len(parts) != 3:
            raise UserError(
                f"{utterance.path}: must be <speaker>/<session>/<utterance> below {root / folder}, as in VoxCeleb1. "
                f"Name the folders that hold the speakers, such as dev/wav: {OPTION.partition(';')[0]}."
            )
        found.append(utterance)
        named[utterance.id] = parts[0]
    names = sorted(set(named.values()))
    if len(names) < 2:
        raise UserError(f"{root}: speech of at least 2 speakers is needed, but there is 1, {names[0]!r}.")
    numbers = {name: number for number, name in enumerate(names)}
    return SpeakerCorpus(found, names, {key: numbers[name] for key, name in named.items()})


class SpeakerBatches(RandomCropBatches):
    """Endless training batches of cropped speech with speakers; `batch(index)` does not depend on earlier batches.

    Args:
        corpus: result of `read_corpus`.
        config: the encoder's, for the number of frames and whether waveforms are normalised.
        datarc: batch sizes, lengths, and the number of held-out utterances.
        seed: an integer, 0 or more.

    Raises:
        UserError: `min_seconds` is too short for the head, or as in `RandomCropBatches`.
    """

    def __init__(self, corpus: SpeakerCorpus, config: EncoderConfig, datarc: SvDataConfig, *, seed: int):
        self._speakers = corpus.speakers
        frames = int(config.num_frames(round(datarc.min_seconds * SAMPLE_RATE)))
        if frames < FEWEST_FRAMES:
            raise UserError(
                f"`min_seconds` must give the x-vector at least {FEWEST_FRAMES} frames of this encoder, but "
                f"{datarc.min_seconds} s are {max(frames, 0)}. Raise it."
            )
        super().__init__(
            corpus.utterances,
            batch_size=datarc.train_batch_size,
            max_seconds=datarc.max_seconds,
            min_seconds=datarc.min_seconds,
            max_batch_seconds=datarc.max_batch_seconds,
            held_out=datarc.held_out,
            crop_lengths=datarc.crop_lengths,
            seed=seed,
            normalize=config.normalize_waveform,
        )

    def _choose_held_out(self, long_enough: np.ndarray, held_out: int) -> np.ndarray:
        of_speaker: dict[int, list[int]] = {}
        for place in long_enough.tolist():
            of_speaker.setdefault(self._speakers[self._corpus[place].id], []).append(place)
        halves = {speaker: len(places) // 2 for speaker, places in of_speaker.items() if len(places) >= 4}
        wanted = min(len(halves), held_out // HELD_OUT_PER_SPEAKER)
        if wanted < 2:
            if held_out:
                logger.warning("no utterances are held out: fewer than two speakers have four that are long enough.")
            return long_enough[:0]
        chosen = evenly(np.array(sorted(halves)), wanted).tolist()
        each = held_out // wanted
        held = [evenly(np.array(of_speaker[number]), min(each, halves[number])) for number in chosen]
        return np.sort(np.concatenate(held))

    def batch(  # type: ignore[override]  # with speakers, where the base has none
        self, index: int, part: int = 0, parts: int = 1
    ) -> SpeakerBatch:
        """Batch number `index` (0, 1, ...) of the whole run, or a part of it: `SpeakerBatch`.

        Raises:
            UserError: as in `RandomCropBatches.batch`.
        """
        wavs, lengths, crops = self._cropped(index, part, parts)
        return wavs, lengths, torch.tensor([self._speakers[utterance.id] for utterance, _ in crops])

    def held_out_speech(self, rank: int = 0, processes: int = 1) -> Iterator[tuple[int, torch.Tensor]]:
        """Place in `held_out` and waveform (S,) of the held-out utterances that can be read, cut to `max_seconds`.

        Args:
            rank: rank of the calling process.
            processes: number of processes that share the utterances.
        """
        for place in range(rank, len(self.held_out), processes):
            wav = self._read(self.held_out[place])
            if wav is not None:
                yield place, wav[: self.max_samples]

    def held_out_speakers(self) -> torch.Tensor:
        """Numbers of the speakers of `held_out`."""
        return torch.tensor([self._speakers[utterance.id] for utterance in self.held_out])
