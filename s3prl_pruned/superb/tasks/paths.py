"""Where corpora are on this machine: ``--corpus``, an environment variable, ``paths.yaml``, or the settings.

    # paths.yaml in the working directory; paths are relative to this file
    asr: /data/LibriSpeech
    pr: /data/LibriSpeech
    ks: /data
    sid: /data/VoxCeleb1
    s3prl_root: /src/s3prl          # optional: a checkout whose lists and dictionaries are used

The variable is ``S3PRL_PRUNED_<TASK>_CORPUS``, such as ``S3PRL_PRUNED_KS_CORPUS``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.config import UserError, load_yaml
from s3prl_pruned.superb.catalogue import TASKS, Task
from s3prl_pruned.superb.tasks.settings import nearest

PATHS_FILE = "paths.yaml"
S3PRL_ROOT = "s3prl_root"


@dataclass(frozen=True, kw_only=True)
class Paths:
    """The content of ``paths.yaml``."""

    corpora: dict[str, Path]
    """Corpora by short task name."""
    s3prl_root: Path | None = None


def read_paths(file: str | None) -> Paths:
    """Read ``--paths``, or ``paths.yaml`` in the working directory if it exists.

    Raises:
        UserError: on a missing file, or a key that is no task.
    """
    path = Path(file or PATHS_FILE)
    if file is None and not path.is_file():
        return Paths(corpora={})
    data = load_yaml(path)
    for key, value in data.items():
        if key not in TASKS and key != S3PRL_ROOT:
            raise UserError(f"{path}: {key}: no such task.{nearest(str(key), [*TASKS, S3PRL_ROOT])}")
        if not isinstance(value, str):
            raise UserError(f"{path}: {key}: must be a path, but is {value!r}.")
    found = {key: path.parent / Path(os.path.expanduser(value)) for key, value in data.items()}
    return Paths(s3prl_root=found.pop(S3PRL_ROOT, None), corpora=found)


def corpus_of(task: Task, given: str | None, paths: Paths) -> Path | None:
    """The corpus of a task: ``--corpus``, else the environment, else ``paths.yaml``; None if none of them names it."""
    variable = os.environ.get(f"S3PRL_PRUNED_{task.name.upper()}_CORPUS")
    named = given or variable
    return Path(os.path.expanduser(named)) if named else paths.corpora.get(task.name)


def s3prl_checkout(given: str | None, paths: Paths) -> Path | None:
    """The folder ``s3prl/`` of a checkout, which holds ``downstream/``; the checkout's root is accepted as well.

    Raises:
        UserError: if there is no such folder.
    """
    root = Path(os.path.expanduser(given)) if given else paths.s3prl_root
    if root is None:
        return None
    for folder in (root, root / "s3prl"):
        if (folder / "downstream").is_dir():
            return folder
    raise UserError(f"--s3prl-root {root}: must be a checkout of s3prl (holding s3prl/downstream/), but is not.")
