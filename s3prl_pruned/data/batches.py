"""Training batches of cropped speech, each a pure function of the seed and its index.

Base models normalise their first convolution over time (GroupNorm), so that padding changes what
the encoder computes; hence training batches are cropped, never padded. Utterances of similar length
share a batch, and all of them are cropped to its shortest.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.data.manifest import Utterance, refuse_many_bad
from s3prl_pruned.data.sources import Manifest
from s3prl_pruned.data.waveforms import (
    FRAME_SAMPLES,
    SAMPLE_RATE,
    collate,
    crop_start,
    normalize_waveform,
)

logger = logging.getLogger(__name__)


BUCKETS = 30
"""Buckets of equal numbers of utterances, by length (lhotse's default number)."""
FEWEST_PER_HELD_OUT = 20
"""Least number of utterances for each held-out one, so that most of a small corpus is trained on."""
HELD_OUT_BATCH = 8
"""Most held-out utterances in a batch: small batches lose less when they are cropped to their shortest."""

Share = tuple[int, int, int]
"""(index, part, parts): the arguments of ``RandomCropBatches.batch``."""


class RandomCropBatches:
    """Endless training batches over a corpus; ``batch(index)`` does not depend on earlier calls.

    Each epoch is a fresh permutation in which every utterance occurs once. It is cut into windows
    of ``window`` batches; a window is sorted by length, cut into batches of nearly equal size, and
    the batches of the epoch are shuffled. Utterances longer than the shortest of their batch, or than
    ``max_seconds``, are cropped at a random place; the rest of them is not used in this epoch.

    Args:
        utterances: the corpus, from ``scan_corpus``.
        batch_size: utterances per batch; some batches have fewer, where the corpus does not divide evenly.
        max_seconds: length of the longest crop.
        seed: a whole number, 0 or more.
        normalize: zero mean and unit variance per utterance before it is cropped (Large models).
        min_seconds: shorter utterances are left out of training, see ``left_out``.
        window: batches that are sorted by length together; a larger window loses less audio and shuffles less.
        max_bad_fraction: the share of undecodable files that may be skipped, counted by each process that reads.
        max_batch_seconds: limits a batch by its seconds of audio instead of by ``batch_size`` and ``window``: the
            corpus is split into ``BUCKETS`` buckets by length, and a batch holds as many utterances of a bucket as
            fit, so batches of short utterances are large.
        held_out: how many utterances, evenly spread over the corpus, are never trained on; at most one in
            ``FEWEST_PER_HELD_OUT``.
        crop_lengths: how many different lengths are allowed, in equal steps up to ``max_seconds``; a batch shorter than
            the first step keeps its length. None for any length.

    Attributes:
        held_out: the utterances that are never trained on.
        num_utterances: number of utterances that are trained on.
        hours: hours of speech that are trained on, before cropping.
        bad: the error message of each file that could not be decoded so far, by utterance id.
        batches_per_epoch: number of batches in an epoch.
        smallest: number of utterances in the smallest batch.
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
        held_out: int = 0,
        crop_lengths: int | None = None,
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
        self._crop_lengths = crop_lengths
        self._corpus = utterances
        lengths = corpus_lengths(utterances)
        long_enough = np.flatnonzero(lengths >= round(min_seconds * SAMPLE_RATE))
        held = self._choose_held_out(long_enough, held_out)
        self.held_out = [utterances[i] for i in held.tolist()]
        self._kept = np.setdiff1d(long_enough, held)
        self._samples = lengths[self._kept]
        self._lengths = np.minimum(self._samples, self.max_samples)
        self.num_utterances = len(self._kept)
        self.hours = float(self._samples.sum()) / SAMPLE_RATE / 3600
        self._too_short = np.setdiff1d(np.arange(len(utterances)), long_enough)
        num_left_out = len(self._too_short)
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
        self.smallest = min(map(len, self._epoch[1]))

    def batch(self, index: int, part: int = 0, parts: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Batch ``index`` (0, 1, ...) of the whole run, or one of the ``parts`` in which processes share it.

        The parts add up to the batch: crops depend on the lengths of all its utterances, of which only those of the
        part are read. A file that cannot be decoded, or is shorter than when it was listed, is counted, named in a
        warning and skipped: its batch is smaller by one. (A part that would be empty takes the first file of the batch
        that can be decoded.)

        Returns:
            waveforms ``(B, S)`` float32 at 16 kHz and their lengths ``(B,)`` int64, all ``S``.

        Raises:
            UserError: if more than ``max_bad_fraction`` of the corpus turned out undecodable, or
                all of it is.
        """
        wavs, lengths, _ = self._cropped(index, part, parts)
        return wavs, lengths

    def _cropped(
        self, index: int, part: int, parts: int
    ) -> tuple[torch.Tensor, torch.Tensor, list[tuple[Utterance, int]]]:
        """The result of ``batch(index)``, and the utterance and the first sample of each crop."""
        number, read = self.read(index, part, parts)
        members, lengths = self.members(number), self._samples[self._members(number)].tolist()
        generator = torch.Generator().manual_seed(self._seed_of(1, index))
        num_samples = self._cut(min(self.max_samples, *lengths))
        starts = [crop_start(length, num_samples, generator) for length in lengths]
        num_samples = min(num_samples, *(len(wav) for _, wav in read))  # a list may state a little more than there is
        starts = [min(starts[place], len(wav) - num_samples) for place, wav in read]
        wavs = [wav[start : start + num_samples] for start, (_, wav) in zip(starts, read, strict=True)]
        return *collate(wavs), [(members[place], start) for start, (place, _) in zip(starts, read, strict=True)]

    def _choose_held_out(self, long_enough: np.ndarray, held_out: int) -> np.ndarray:
        """The positions in the corpus that are held out, out of those that are long enough."""
        return evenly(long_enough, min(held_out, len(long_enough) // FEWEST_PER_HELD_OUT))

    def read(self, index: int, part: int = 0, parts: int = 1) -> tuple[int, list[tuple[int, torch.Tensor]]]:
        """Read the utterances of batch ``index``, or of a part of it, that can be decoded.

        If none can, the next batch is read instead: one lost file must not end a run of days.

        Returns:
            the index of the batch that was read; position in it and waveform ``(S,)`` of each utterance.

        Raises:
            UserError: as ``batch``.
        """
        for number in range(index, index + self.batches_per_epoch):
            members = self.members(number)
            for places in (range(part, len(members), parts), range(len(members))):
                pairs = [(place, wav) for place in places if (wav := self._read(members[place])) is not None]
                if pairs:
                    return number, pairs if len(places) < len(members) or parts == 1 else pairs[:1]
        names = ", ".join(utterance.id for utterance in self.members(index))
        raise UserError(f"none of the files of one batch can be decoded: {names}. Repair them.")

    def largest(self, numbers: range, size: Callable[[int, int], float]) -> int:
        """Index of the batch with the largest ``size(utterances, samples of each)``; the first one of several.

        Args:
            numbers: indices of the batches to compare.
            size: must increase with both arguments: it is called only for the longest batch of each number of
                utterances.
        """
        longest: dict[int, tuple[int, int]] = {}  # number of utterances: (samples, batch index)
        for number in numbers:
            lengths = self._lengths[self._members(number)]
            samples = self._common_length(lengths)
            if samples > longest.get(len(lengths), (0, 0))[0]:
                longest[len(lengths)] = (samples, number)
        return max(longest.items(), key=lambda found: size(found[0], found[1][0]))[1][1]

    def _common_length(self, lengths: np.ndarray) -> int:
        """Samples to which a batch of utterances of these lengths is cropped."""
        return self._cut(int(lengths.min()))

    def _cut(self, num_samples: int) -> int:
        """The longest allowed length that is at most ``num_samples``; ``num_samples`` if all are longer."""
        steps = self._crop_lengths or self.max_samples
        filled = ((num_samples + 1) * steps - 1) // self.max_samples  # in steps
        return filled * self.max_samples // steps or num_samples

    def members(self, index: int) -> list[Utterance]:
        """The utterances of batch ``index``."""
        return [self._corpus[i] for i in self._kept[self._members(index)].tolist()]

    def _members(self, index: int) -> np.ndarray:
        epoch, position = divmod(index, self.batches_per_epoch)
        if epoch != self._epoch[0]:
            self._epoch = (epoch, self._permute(epoch))
        return self._epoch[1][position]

    def held_out_batches(self, rank: int = 0, processes: int = 1) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The held-out utterances, the same in every call: sorted by length, in batches truncated to their shortest.

        Args:
            rank: rank of the calling process.
            processes: number of processes that share the batches.

        Yields:
            as ``batch``.
        """
        in_order = sorted(self.held_out, key=lambda utterance: utterance.num_samples)
        size = min(HELD_OUT_BATCH, self._batch_size)
        if self._max_batch_samples is not None:
            size = max(1, min(HELD_OUT_BATCH, self._max_batch_samples // self.max_samples))
        for start in range(rank * size, len(in_order), processes * size):
            wavs = [wav for wav in map(self._read, in_order[start : start + size]) if wav is not None]
            if wavs:
                num_samples = min(self.max_samples, min(len(wav) for wav in wavs))
                yield collate([wav[:num_samples] for wav in wavs])

    @property
    def utterances(self) -> list[Utterance]:
        """The utterances that are trained on: long enough, and not held out."""
        return [self._corpus[i] for i in self._kept.tolist()]

    @property
    def left_out(self) -> list[Utterance]:
        """The utterances shorter than ``min_seconds``."""
        return [self._corpus[i] for i in self._too_short.tolist()]

    def __len__(self) -> int:
        """Number of batches in an epoch; ``batch`` accepts any index."""
        return self.batches_per_epoch

    def __getitem__(self, index: int | Share) -> tuple[torch.Tensor, ...]:
        """``batch(index)`` or ``batch(*share)``, so that torch's loader can prefetch.

        ``DataLoader(self, batch_size=None, sampler=range(step, total_steps), num_workers=...)``.
        """
        return self.batch(index) if isinstance(index, int) else self.batch(*index)

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
        # All epochs have equally many batches: _split depends only on the number of items.
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
        """Seed of an independent random stream: stream 0 permutes epochs, 1 crops batches."""
        sequence = np.random.SeedSequence([self.seed, stream, number])
        return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def corpus_lengths(utterances: Sequence[Utterance]) -> np.ndarray:
    """``num_samples`` of each utterance, (N,) int64, without parsing a manifest."""
    if isinstance(utterances, Manifest):
        return utterances.lengths
    return np.array([utterance.num_samples for utterance in utterances], dtype=np.int64)


def evenly(items: np.ndarray, number: int) -> np.ndarray:
    """``number`` of the items, evenly spread: the middles of as many equal parts."""
    return items[(2 * np.arange(number) + 1) * len(items) // (2 * max(1, number))]


def in_parts(batch: tuple[torch.Tensor, ...], max_seconds: float | None) -> list[tuple[torch.Tensor, ...]]:
    """Split a batch into parts of nearly equal size, each with at most ``max_seconds`` of audio where possible.

    Args:
        batch: tensors ``(B, ...)``, the first of which holds the waveforms ``(B, S)``.
        max_seconds: limit for a part, padding included; None does not split the batch.
    """
    if max_seconds is None:
        return [batch]
    num_utterances, num_samples = batch[0].shape
    size = max(1, int(max_seconds * SAMPLE_RATE) // num_samples)
    parts = zip(*(tensor.tensor_split(math.ceil(num_utterances / size)) for tensor in batch), strict=True)
    return [tuple(part) for part in parts]


def _split(items: np.ndarray, size: int) -> list[np.ndarray]:
    """Split into the fewest parts of at most ``size`` items; their sizes differ by one at most."""
    return np.array_split(items, math.ceil(len(items) / size))


def _at_least(minimum: float, **values: float) -> None:
    for name, value in values.items():
        if value < minimum:
            raise UserError(f"`{name}` must be at least {minimum}, but is {value}.")
