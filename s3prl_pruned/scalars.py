"""Scalars for TensorBoard, written without a second thread."""

import logging
import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 30.0
"""How long scalars may stay in memory before they are written to disk."""


class ScalarWriter:
    """Writes scalars to an event file, in place of tensorboardX's `SummaryWriter`.

    `SummaryWriter` hands scalars to a thread, which a full disk ends; once its queue is full, the run waits forever.
    Here a write error ends only the event file, with a warning: the scalars are in the run's log too.

    Args:
        folder: created if needed.
        purge_step: TensorBoard discards what older files in the folder hold from this step on.
    """

    def __init__(self, folder: str | Path, *, purge_step: int | None = None):
        self.folder, self._flushed = Path(folder), 0.0
        self._events: EventsWriter | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._events = EventsWriter(str(self.folder / "events"))
        except OSError as error:
            self._give_up(error)
        if purge_step is not None:
            self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Write one number.

        Args:
            tag: its name.
            scalar_value: a number, or a tensor with one element.
            global_step: optimiser step.
        """
        self._write(Event(step=global_step, summary=scalar(tag, scalar_value)))

    def _write(self, event: Event) -> None:
        if self._events is None:
            return
        event.wall_time = now = time.time()
        try:
            self._events.write_event(event)
            if now - self._flushed > FLUSH_SECONDS:
                self._flushed = now
                self._events.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        events, self._events = self._events, None
        if events is not None:
            try:
                events.close()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._events = None
        logger.warning("%s: TensorBoard's file cannot be written (%s); the run goes on without it.", self.folder, error)
