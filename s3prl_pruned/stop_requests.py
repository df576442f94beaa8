"""Signals that ask for a stop; the training loop stops after a step, where the work can be saved."""

import atexit
import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch.utils.data import DataLoader

from s3prl_pruned import distributed
from s3prl_pruned.command_line import STOP_SIGNALS, stop_signals


class StopRequest:
    """Whether a signal has asked for a stop."""

    requested: str | None = None
    """The signal that this process received."""
    since: float = 0.0

    def agreed(self) -> str | None:
        """The signal that any process received, so that all stop after the same step; each process must call this."""
        names = [signum.name for signum in STOP_SIGNALS]
        flags = torch.tensor([self.requested == name for name in names], dtype=torch.int32)
        received = distributed.all_reduce_sum(flags).tolist()
        return next((name for name, count in zip(names, received, strict=True) if count), None)


def exit_code(signal_name: str) -> int:
    """The exit code of a process that a signal of `STOP_SIGNALS` stopped."""
    return STOP_SIGNALS[signal.Signals[signal_name]]


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """`STOP_SIGNALS` ask for a stop after the current step; a second Ctrl-C stops at once."""
    stop = StopRequest()

    def request(signum: int, frame: FrameType | None) -> None:
        # Under torchrun one Ctrl-C arrives twice: from the terminal and from torchrun.
        if stop.requested and signum == signal.SIGINT and time.monotonic() - stop.since > 2:
            raise KeyboardInterrupt
        if not stop.requested:
            stop.requested, stop.since = signal.Signals(signum).name, time.monotonic()

    before = {signum: signal.signal(signum, request) for signum in stop_signals()}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class ReadingLoader(DataLoader):
    """A `DataLoader` whose workers ignore stop signals from their start on.

    `leave_stopping_to_the_main_process` alone is too late for a signal to the whole process group that arrives while
    they start.
    """

    def __iter__(self) -> Any:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # the workers inherit it
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_stopping_to_the_main_process(worker: int) -> None:
    """Make a worker of a `DataLoader` ignore stop signals.

    A terminal and a scheduler send them to the whole process group, but the current step still needs its batches. The
    main process ends its workers when it stops.
    """
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


@atexit.register
def _end_readers() -> None:
    """Kill workers that are left after an error: they ignore the signal by which `multiprocessing` would end them."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
