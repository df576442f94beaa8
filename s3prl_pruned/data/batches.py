"""Training batches of cropped speech, each a pure function of the seed and its number.

Base models normalise their first convolution over time (GroupNorm), so that padding changes what
the encoder computes; hence training batches are cropped, never padded. Utterances of similar length
share a batch, and all of them are cut to the shortest of it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.data.manifest import Utterance, refuse_many_bad
from s3prl_pruned.data.sources import Manifest
from s3prl_pruned.data.waveforms import (
    FRAME_SAMPLES,
    SAMPLE_RATE,
    collate,
    crop,
    normalize_waveform,
)

logger = logging.getLogger(__name__)


BUCKETS = 30
"""Buckets of equal numbers of utterances, by length (lhotse's default number)."""


class RandomCropBatches:
    """Endless training batches over a corpus; ``batch(index)`` needs nothing that went before.

    Each epoch is a fresh permutation in which every utterance occurs once. It is cut into windows
    of ``window`` batches; a window is sorted by length, cut into batches of nearly equal size, and
    the batches of the epoch are shuffled. One too long is cropped at a random place; what a batch's
    shortest leaves over of the others is lost in this epoch and may come in another.

    Args:
        utterances: the corpus, from ``scan_corpus``.
        batch_size: utterances per batch; some batches have fewer, where the numbers do not divide.
        max_seconds: the longest crop.
        seed: a whole number, 0 or more.
        normalize: zero mean and unit variance per utterance before it is cropped (Large models).
        min_seconds: shorter utterances are left out of training, see ``left_out``.
        window: batches that are sorted by length together; more lose less audio and mix less.
        max_bad_fraction: the share of undecodable files that may be skipped, counted by each process that reads.
        max_batch_seconds: bounds a batch by its seconds of audio in place of ``batch_size`` and ``window``: the corpus
            is cut into ``BUCKETS`` buckets by length, a bucket's batches hold as many utterances as fit, and short
            ones stand in large batches.

    Attributes:
        num_utterances: that are trained on.
        hours: of speech that is trained on, before cropping.
        bad: the message for each file that could not be decoded so far, by utterance id.
        batches_per_epoch: how many batches hold every utterance once.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        *,
        batch_size: int,
        max_seconds: float,
        seed: int,
        normalize: bool,
        min_seconds: float = 1.0,
        window: int = 20,
        max_bad_fraction: float = 0.01,
        max_batch_seconds: float | None = None,
    ) -> None:
        if max_batch_seconds is not None:
            _at_least(max_seconds, max_batch_seconds=max_batch_seconds)
        _at_least(1, batch_size=batch_size, window=window)
        _at_least(0, seed=seed)
        _at_least(FRAME_SAMPLES / SAMPLE_RATE, min_seconds=min_seconds)
        _at_least(min_seconds, max_seconds=max_seconds)
        self.seed = seed
        self.normalize = normalize
        self.max_samples = round(max_seconds * SAMPLE_RATE)
        self.max_bad_fraction = max_bad_fraction
        self.bad: dict[str, str] = {}
        self._corpus = utterances
        lengths = corpus_lengths(utterances)
        self._kept = np.flatnonzero(lengths >= round(min_seconds * SAMPLE_RATE))
        self._lengths = np.minimum(lengths[self._kept], self.max_samples)
        self.num_utterances = len(self._kept)
        self.hours = float(lengths[self._kept].sum()) / SAMPLE_RATE / 3600
        num_left_out = len(utterances) - len(self._kept)
        if not len(self._kept):
            raise UserError(
                f"training needs utterances of at least `min_seconds` = {min_seconds} s, but none of "
                f"the corpus's {len(utterances)} is that long. Lower it or take another corpus."
            )
        if num_left_out:
            found = f"{num_left_out} of {len(utterances)} utterances"
            logger.warning("%s are shorter than %s s and left out of training.", found, min_seconds)
        self._batch_size = batch_size
        self._window = window
        self._max_batch_samples = None if max_batch_seconds is None else round(max_batch_seconds * SAMPLE_RATE)
        self._epoch: tuple[int, list[np.ndarray]] = (0, self._permute(0))
        self.batches_per_epoch = len(self._epoch[1])

    def batch(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch number ``index`` (0, 1, ...) of the whole run.

        A file that cannot be decoded is counted, named in a warning and skipped: its batch is
        smaller by one.

        Returns:
            waveforms ``(B, S)`` float32 at 16 kHz and their lengths ``(B,)`` int64, all ``S``.

        Raises:
            UserError: if more than ``max_bad_fraction`` of the corpus turned out undecodable, or
                nothing of this batch is left.
        """
        members = self.members(index)
        wavs = [wav for wav in map(self._read, members) if wav is not None]
        if not wavs:
            names = ", ".join(utterance.id for utterance in members)
            raise UserError(f"none of the files of one batch can be decoded: {names}. Repair them.")
        num_samples = min(self.max_samples, min(len(wav) for wav in wavs))
        generator = torch.Generator().manual_seed(self._seed_of(1, index))
        return collate([crop(wav, num_samples, generator) for wav in wavs])

    def members(self, index: int) -> list[Utterance]:
        """The utterances of batch number ``index``."""
        epoch, position = divmod(index, self.batches_per_epoch)
        if epoch != self._epoch[0]:
            self._epoch = (epoch, self._permute(epoch))
        return [self._corpus[i] for i in self._kept[self._epoch[1][position]].tolist()]

    @property
    def utterances(self) -> list[Utterance]:
        """What is trained on: everything that is long enough."""
        return [self._corpus[i] for i in self._kept.tolist()]

    @property
    def left_out(self) -> list[Utterance]:
        """The utterances shorter than ``min_seconds``."""
        return [self._corpus[i] for i in np.setdiff1d(np.arange(len(self._corpus)), self._kept).tolist()]

    def __len__(self) -> int:
        """The number of batches of one epoch; ``batch`` takes any number."""
        return self.batches_per_epoch

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """``batch(index)``, for torch's loader to read ahead.

        ``DataLoader(self, batch_size=None, sampler=range(step, total_steps), num_workers=...)``.
        """
        return self.batch(index)

    def _permute(self, epoch: int) -> list[np.ndarray]:
        """The epoch's batches, as indices into ``self.utterances``."""
        generator = np.random.default_rng(self._seed_of(0, epoch))
        batches = []
        if self._max_batch_samples is not None:
            for bucket in np.array_split(np.argsort(self._lengths, kind="stable"), min(BUCKETS, len(self._kept))):
                size = max(1, self._max_batch_samples // int(self._lengths[bucket].max()))
                batches.extend(_split(generator.permutation(bucket), size))
            return [batches[i] for i in generator.permutation(len(batches))]
        order = generator.permutation(len(self._kept))
        for window in _split(order, self._window * self._batch_size):
            by_length = window[np.argsort(self._lengths[window], kind="stable")]
            batches.extend(_split(by_length, self._batch_size))
        # The number of batches is the same in every epoch: _split goes by the lengths alone.
        return [batches[i] for i in generator.permutation(len(batches))]

    def _read(self, utterance: Utterance) -> torch.Tensor | None:
        try:
            wav = utterance.read()
        except UserError as error:
            if utterance.id not in self.bad:
                self.bad[utterance.id] = str(error)
                logger.warning("skipped in training (%d so far): %s", len(self.bad), error)
                refuse_many_bad(
                    self.bad,
                    total=len(self._kept),
                    max_fraction=self.max_bad_fraction,
                    where="the training corpus",
                )
            return None
        return normalize_waveform(wav) if self.normalize else wav

    def _seed_of(self, stream: int, number: int) -> int:
        """Independent streams: 0 permutes epochs, 1 crops batches."""
        sequence = np.random.SeedSequence([self.seed, stream, number])
        return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def corpus_lengths(utterances: Sequence[Utterance]) -> np.ndarray:
    """``num_samples`` of each utterance, (N,) int64, without parsing a manifest."""
    if isinstance(utterances, Manifest):
        return utterances.lengths
    return np.array([utterance.num_samples for utterance in utterances], dtype=np.int64)


def _split(items: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut into the fewest parts of at most ``size``, their lengths differing by one at most."""
    return np.array_split(items, math.ceil(len(items) / size))


def _at_least(minimum: float, **values: float) -> None:
    for name, value in values.items():
        if value < minimum:
            raise UserError(f"`{name}` must be at least {minimum}, but is {value}.")
