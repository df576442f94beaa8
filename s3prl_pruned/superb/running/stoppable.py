"""A training by s3prl's runner that a signal can stop without any loss."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

from s3prl_pruned import distributed
from s3prl_pruned.checkpoint import write_torch
from s3prl_pruned.command_line import Interrupted
from s3prl_pruned.compat import experts, steps
from s3prl_pruned.stop_requests import ReadingLoader, StopRequest, exit_code, leave_stopping_to_the_main_process
from s3prl_pruned.superb.results.result import INTERRUPTED
from s3prl_pruned.superb.tasks.driver import DownstreamRun


class _Saved(Exception):
    """Raised once the last step before a stop is saved."""


class StoppableTraining:
    """A training by s3prl's runner; on a stop signal it finishes and saves the current step, then ends.

    Args:
        runner: the runner, before it trains.
        run: the run of this training.
        request: tells whether a stop was requested.
    """

    def __init__(self, runner: Any, run: DownstreamRun, request: StopRequest) -> None:
        self.runner, self.config, self.request = runner, run.config, request
        self.step = runner.init_ckpt.get("Step", 0)
        self.reason: str | None = None
        steps.call_after_each_step(runner, self.made)
        steps.save_when_wanted(runner, lambda: self.reason is not None)
        steps.start_readers_by(runner, ReadingLoader, leave_stopping_to_the_main_process)
        experts.save_checkpoints_by(self.save, then=self.saved)

    def train(self) -> None:
        """Train until the last step, or until a stop.

        Raises:
            Interrupted: by one of `STOP_SIGNALS`, in all processes after the same step, which is saved.
        """
        with contextlib.suppress(steps.LastStep, _Saved):
            self.runner.train()
        reason = self.reason or self.request.agreed()  # the request may have come after the last step
        if reason is not None:
            raise Interrupted(
                f"stopped by {reason} after step {self.step}; it is saved. Resume with -a.",
                exit_code=exit_code(reason),
            )

    def made(self) -> None:
        """Called after a step. The first process saves at its end; the others, which do not count steps, end here."""
        self.step += 1
        self.reason = self.request.agreed()
        if not distributed.is_main() and (self.reason or self.step == self.config["runner"]["total_steps"]):
            raise steps.LastStep

    def save(self, path: Path, states: dict) -> Path:
        """Write a checkpoint; one written only because of a stop has a name of its own, so it is never evaluated."""
        numbered = path.name.startswith("states-")
        extra = numbered and states["Step"] % self.config["runner"]["save_step"]
        written = path.with_name(INTERRUPTED) if extra else path
        write_torch(written, {**states, "Config": copy.deepcopy(self.config)})
        if numbered and not extra:
            path.with_name(INTERRUPTED).unlink(missing_ok=True)
        return written

    def saved(self) -> None:
        """Called when the step's checkpoint is written."""
        if self.reason is not None:
            raise _Saved
