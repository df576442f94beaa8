"""How long a task will take, from a few steps of it.

One short training, saved at steps 5, 10 and 15 and evaluated on the development set at the last: the times of the
three files tell the seconds of a step, of an evaluation, and of the start.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3prl_pruned.superb.settings import get

STEPS = 5
OVERRIDE = ",,".join(
    f"config.runner.{key}={value}"
    for key, value in dict(total_steps=3 * STEPS, save_step=STEPS, eval_step=3 * STEPS, log_step=STEPS, max_keep=3).items()
)
"""`-o` of the probe."""

TRAININGS = {"er": 5}
"""Trainings of a task that has several; the probe measures the first."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Seconds."""

    start: float
    """Before the first step and after the last."""
    step: float
    evaluation: float
    """Of the development set."""

    def estimate(self, config: dict[str, Any], task: str) -> float:
        """Seconds of the whole task; its test set is taken to last as long as its development set.

        Args:
            config: the task's settings.
        """
        steps, interval = get(config, "runner.total_steps"), get(config, "runner.eval_step")
        training = self.start + steps * self.step + (steps // interval + 1) * self.evaluation
        return TRAININGS.get(task, 1) * training


def can_probe(config: dict[str, Any] | None) -> bool:
    """Whether the settings are of a training."""
    return config is not None and get(config, "runner.total_steps") is not None


def read_probe(folder: Path, seconds: float) -> Probe | None:
    """Read what a probe left; None if it is not complete.

    Args:
        folder: of the run; of a task of several trainings the first one's folder is in it.
        seconds: what the call took.
    """
    for first in sorted(folder.rglob(f"states-{STEPS}.ckpt")):
        paths = [first.with_name(f"states-{number * STEPS}.ckpt") for number in (1, 2, 3)]
        if all(path.is_file() for path in paths):
            one, two, three = (path.stat().st_mtime for path in paths)
            step = (two - one) / STEPS
            evaluation = max(three - two - STEPS * step, 0.0)
            return Probe(start=max(seconds - 3 * STEPS * step - evaluation, 0.0), step=step, evaluation=evaluation)
    return None
