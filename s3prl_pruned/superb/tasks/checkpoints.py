"""s3prl's downstream checkpoints: find the newest, read one without executing anything from it."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from s3prl_pruned.checkpoint import load_checkpoint as read_checkpoint
from s3prl_pruned.config import UserError
from s3prl_pruned.superb.results.result import INTERRUPTED
from s3prl_pruned.superb.results.s3prl_runs.files import saved_steps

logger = logging.getLogger(__name__)


def numbered_checkpoints(folder: Path) -> list[Path]:
    """The ``states-<step>.ckpt`` of a run, sorted by step; they are not opened."""
    return [folder / f"states-{step}.ckpt" for step in saved_steps(folder)]


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest readable checkpoint of a run; None if there is none.

    s3prl itself writes checkpoints in place, so a killed run may leave half of one.
    """
    interrupted = [folder / INTERRUPTED] if (folder / INTERRUPTED).is_file() else []
    found = [_first_readable(reversed(numbered_checkpoints(folder))), _first_readable(interrupted)]
    _, path = max(filter(None, found), default=(0, None))
    return path


def _first_readable(paths: Iterable[Path]) -> tuple[int, Path] | None:
    """The step and the path of the first checkpoint that can be read."""
    for path in paths:
        try:
            return load_checkpoint(path)["Step"], path
        except UserError as error:
            logger.warning("%s Trying the checkpoint before it.", error)
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a downstream checkpoint of s3prl, executing nothing from it. ``compat.apply()`` must have been called.

    Raises:
        UserError: if it is missing or truncated, holds foreign classes, or is no downstream checkpoint.
    """
    checkpoint = read_checkpoint(path)
    if (
        not isinstance(checkpoint.get("Args"), argparse.Namespace)
        or not isinstance(checkpoint.get("Config"), dict)
        or not isinstance(checkpoint.get("Step"), int)
    ):
        raise UserError(f"{path}: must be a downstream checkpoint of s3prl (Args, Config, Step), but is not.")
    return checkpoint
