"""What a run's folder holds, and whether this call may start, resume, or has nothing to do."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.folder_lock import is_unused, locked
from s3prl_pruned.superb.results.result import (
    RESULT_FILE,
    RUN_FILE,
    SplitRead,
    Upstream,
    read_json,
    read_result,
    write_json,
)  # fmt: skip

logger = logging.getLogger(__name__)

Stage = Literal["start", "resume", "finished"]


@dataclass(kw_only=True)
class BegunRun:
    """``run.json``: what a run was started as."""

    config_sha256: str
    upstream: Upstream
    splits: list[SplitRead]
    protocol: str
    protocol_note: str | None = None
    num_processes: int = 1
    """Processes that train together; each takes a part of every step's batch."""
    command: str
    date: str
    former_sha256: str | None = None
    """``config_sha256`` as earlier versions computed it. None in files of those versions."""

    def differences(self, other: BegunRun) -> list[str]:
        """The differences between two runs that affect the result, in words; this one may be of an earlier version."""
        found = []
        theirs_too = other.former_sha256 if self.former_sha256 is None else other.config_sha256
        if self.config_sha256 not in (other.config_sha256, theirs_too):
            found.append("settings")
        if (self.upstream.name, self.upstream.sha256) != (other.upstream.name, other.upstream.sha256):
            found.append(f"upstream model ({_model(self.upstream)}, now {_model(other.upstream)})")
        mine, now = self.upstream.settings, other.upstream.settings
        if mine is not None and now is not None and mine != now:
            found.append(f"upstream settings ({self.upstream.described()}, now {other.upstream.described()})")
        theirs = {(split.key, split.folder): split.sha256 for split in other.splits}
        for split in self.splits:
            if theirs.get((split.key, split.folder), split.sha256) != split.sha256:
                found.append(f"the corpus's {split.folder}")
        return found


def write_begun(folder: Path, begun: BegunRun) -> None:
    """Write ``run.json``; makes the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error}). Give another folder by -p.") from error
    write_json(folder / RUN_FILE, to_dict(begun))


def read_begun(folder: Path) -> BegunRun | None:
    """Read ``run.json``; None where there is none."""
    path = folder / RUN_FILE
    return from_dict(BegunRun, read_json(path), str(path)) if path.is_file() else None


def settle_training(
    folder: Path,
    begun: BegunRun,
    *,
    resume: bool,
    force: bool,
    unfinished: Callable[[], int | None],
    held: contextlib.ExitStack,
) -> Stage:
    """Decide what a training call has to do in its folder; if it starts a run, ``run.json`` is written.

    Args:
        folder: the run's folder.
        begun: what this call would start.
        resume: ``-a``.
        force: move aside whatever is there.
        unfinished: returns the newest step of an unfinished training, None if it is finished or no checkpoint is left.
            A result beside an unfinished training is an early evaluation of an earlier version, and is moved aside.
        held: gets the folder's lock, unless the run is finished: then the folder is only read.

    Raises:
        UserError: if the folder holds another run, an unfinished one without ``resume``, or other files, or another
            process works in it.
    """
    if force and not is_unused(folder):
        with locked(folder):
            move_aside(folder)
    step = unfinished()
    finished = (folder / RESULT_FILE).is_file() and step is None
    if not finished:
        held.enter_context(locked(folder))
    if is_unused(folder):
        write_begun(folder, begun)
        return "start"
    previous = read_begun(folder)
    if previous is None:
        raise UserError(
            f"{folder}: is not empty and was not written by this command. Give another name by -n, or "
            "--force to move it aside."
        )
    refuse_another_run(folder, previous, begun)
    if previous.num_processes != begun.num_processes and not finished:
        raise UserError(
            f"{folder}: was begun by {previous.num_processes} process(es), but this is {begun.num_processes}. "
            "Start as many processes as before."
        )
    if finished:
        read_result(folder / RESULT_FILE)  # half a result must not count as one
        return "finished"
    if not resume:
        raise UserError(
            f"{folder}: holds this run unfinished. Give -a to resume it, -n for another name, or --force "
            "to move it aside and start anew."
        )
    if (folder / RESULT_FILE).is_file():
        logger.warning("%s: was evaluated when the training was at step %s; it is no result.", folder, step)
        move_aside(folder / RESULT_FILE)
    return "resume"


def refuse_another_run(folder: Path, previous: BegunRun, begun: BegunRun) -> None:
    """Stop if a folder holds a run with other settings, model or corpus.

    Args:
        folder: the run's folder.
        previous: what was started in the folder, by its ``run.json``.
        begun: what this call would start.

    Raises:
        UserError: with the differences and what to do.
    """
    found = previous.differences(begun)
    if found:
        raise UserError(
            f"{folder}: holds a run that differs in {', '.join(found)}. Give another name by -n, or --force "
            "to move it aside (nothing is deleted)."
        )


def move_aside(path: Path) -> Path:
    """Rename a folder or file to the first free ``<name>.old-<number>``, which is never read as a run."""
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    try:
        path.rename(aside)
    except OSError as error:
        raise UserError(f"{path}: cannot be moved aside ({error}).") from error
    logger.warning("%s moved aside to %s", path, aside)
    return aside


def _model(upstream: Upstream) -> str:
    return f"{upstream.name} {upstream.sha256[:12]}" if upstream.sha256 else upstream.name
