"""Training batches read ahead by worker processes, and the speed of reading."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch.utils.data import Dataset

from s3prl_pruned.data.batches import RandomCropBatches, Share
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.stop_requests import ReadingLoader, leave_stopping_to_the_main_process

BATCHES_AHEAD = 4
"""Batches that each worker process keeps ready."""


class Reader:
    """Iterates over batches with given numbers (or parts of them), in this order.

    Args:
        batches: batches of the run.
        numbers: numbers of the batches, in order.
        workers: number of worker processes; 0 reads in this process.
        pinned: whether batches are in page-locked memory, from which a GPU copies asynchronously.
    """

    def __init__(
        self, batches: RandomCropBatches, numbers: Iterable[int | Share], *, workers: int, pinned: bool = False
    ):
        self._loader = ReadingLoader(
            cast(Dataset, _Timed(batches)),
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            prefetch_factor=BATCHES_AHEAD if workers else None,
            pin_memory=pinned,
            worker_init_fn=leave_stopping_to_the_main_process,
            generator=torch.Generator(),  # so that the state of the global generator does not change
        )
        self._workers, self._audio, self._spent = max(1, workers), 0.0, 0.0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        for batch, seconds in self._loader:
            self._audio += batch[0].numel() / SAMPLE_RATE
            self._spent += seconds
            yield tuple(batch)  # pinned batches are lists

    @property
    def pace(self) -> float:
        """Seconds of audio per second that the workers can read together, so far; 0 before the first batch."""
        return self._workers * self._audio / self._spent if self._spent else 0.0


class _Timed:
    """Batches together with the time in seconds that reading each took."""

    def __init__(self, batches: RandomCropBatches):
        self._batches = batches

    def __getitem__(self, index: int | Share) -> tuple[Any, float]:
        began = time.perf_counter()
        batch = self._batches[index]
        return batch, time.perf_counter() - began
