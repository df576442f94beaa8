"""A run and its folder: the settings that determine its result, the files in the folder, and whether it may resume."""

import argparse
import contextlib
import datetime
import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from s3prl_pruned import checkpoint
from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.folder_lock import is_unused, locked
from s3prl_pruned.former_defaults import as_before, former_values, with_values
from s3prl_pruned.pretrain.config import RunnerConfig
from s3prl_pruned.pretrain.distill.teachers import load_teacher
from s3prl_pruned.pretrain.objectives import AnyModelConfig, Objective

logger = logging.getLogger(__name__)

RUN, EXPORT = "run.json", "export"
DEFAULTS = 3
"""Version of the defaults in `run.json`; raised when `before` of a field is set (`former_defaults`)."""
WITHOUT_EFFECT_ON_RESULTS = (
    *(f"runner.runner.{key}" for key in ("log_step", "save_step", "max_keep", "max_bad_steps", "process_timeout")),
    "runner.runner.gradient_checkpointing",
    "runner.runner.max_seconds_at_once",
    "runner.runner.compile",
    "runner.runner.tf32",
    "runner.pretrain_expert.datarc.num_workers",
)
"""Settings that may change when an unfinished run is resumed."""
THE_CORPUS = tuple(
    f"runner.pretrain_expert.datarc.{key}" for key in ("corpus", "libri_root", "sets", "dev_sets", "test_sets")
)
"""Settings that may change if the speech they lead to does not."""


THE_TEACHER = "model.teacher"
"""A setting that may change if the content of its file does not."""


@dataclass
class Run:
    """A resolved run: the settings that determine its result, and its folder."""

    objective: Objective
    model: AnyModelConfig
    runner: RunnerConfig
    seed: int
    recipe: str
    folder: Path

    def identity(self) -> dict:
        """Content of `run.json`: all that determines the result. A resumed run must have the same."""
        return {"model": to_dict(self.model), "runner": to_dict(self.runner), "seed": self.seed}


def as_it_began(run: Run) -> Run:
    """A run that exists in its folder, with the defaults of the version that started it."""
    record, wanted = _read_json(run.folder), run.identity()
    if record.get("defaults", 1) == DEFAULTS:
        return run
    model, runner = (
        with_values(wanted[key], former_values(kind, record[key]))
        for key, kind in (("model", run.objective.model), ("runner", run.objective.runner))
    )
    where = str(run.folder / RUN)
    return replace(
        run, model=from_dict(run.objective.model, model, where), runner=from_dict(run.objective.runner, runner, where)
    )


def read_run(folder: Path, objective: Objective) -> dict:
    """Content of `run.json`; fields that are newer than the file get the behaviour of its time.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    record = _read_json(folder)
    for key, kind in (("model", objective.model), ("runner", objective.runner)):
        record[key] = to_dict(from_dict(kind, as_before(kind, record[key]), str(folder / RUN)))
    return record


def recorded_command(folder: Path) -> str | None:
    """The command that began a run, as it was typed; None of a run that began before it was recorded."""
    return _read_json(folder).get("command")


def _read_json(folder: Path) -> dict:
    try:
        record = json.loads((folder / RUN).read_text(encoding="utf-8"))
        record["seed"], record["recipe"], record["model"].items, record["runner"].items
        return record
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{folder}: is not a run of run_pretrain.py ({RUN}: {error!r}).") from error


def prepare_folder(run: Run, args: argparse.Namespace, held: contextlib.ExitStack) -> Path | None:
    """Find the checkpoint to continue from; refuse to mix runs; move old runs aside if requested.

    Args:
        run: the resolved run.
        args: the command line.
        held: gets the lock of the folder, unless the run is finished, since it is then only read.

    Raises:
        UserError: the folder holds another run or is in use, or there is nothing to continue.
    """
    if args.force and not args.past_exp and not is_unused(run.folder):
        with locked(run.folder):
            aside = run.folder.with_name(f"{run.folder.name}.old-{datetime.datetime.now():%Y%m%d-%H%M%S}")
            run.folder.rename(aside)
            print(f"moved {run.folder} aside, to {aside}")
    if not (run.folder / EXPORT).exists():
        held.enter_context(locked(run.folder))
    if args.past_exp:
        path = Path(args.past_exp)
        found = path if path.is_file() else checkpoint.newest(path)
        if found is None and not (run.folder / EXPORT).exists():
            raise UserError(f"{path}: holds no complete checkpoint to continue from.")
        return None if (run.folder / EXPORT).exists() else found
    if is_unused(run.folder):
        return None
    refuse_difference(run, read_run(run.folder, run.objective), run.folder)
    if (run.folder / EXPORT).exists():
        return None
    found = checkpoint.newest(run.folder)
    if found is not None and not args.auto_resume:
        raise UserError(
            f"{run.folder}: holds an unfinished run ({found.name}). -a continues it, -n NAME starts another one, "
            "--force moves it aside."
        )
    return found


def refuse_difference(wanted: Run, stands: dict, folder: Path) -> None:
    """Refuse if the run in a folder was made with another configuration, and show the difference.

    A path may be spelled differently, and corpus and teacher may be in another place, as long as the speech and the
    content of the file are the same.

    Args:
        wanted: run of the command line.
        stands: result of `read_run`.
        folder: folder of the existing run.

    Raises:
        UserError: they differ.
    """

    def flat(data: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(data, dict):
            return {prefix[:-1]: data}
        return {k: v for key, value in data.items() for k, v in flat(value, f"{prefix}{key}.").items()}

    identity = wanted.identity()
    old, new = flat({key: stands[key] for key in identity}), flat(identity)
    keys = [k for k in sorted(old | new) if k not in WITHOUT_EFFECT_ON_RESULTS and not _same(old.get(k), new.get(k))]
    advice = "-n NAME starts another run beside it, --force moves it aside."
    if any(key in THE_CORPUS for key in keys) and "speech" in stands:
        if wanted.objective.speech(wanted.runner.pretrain_expert.datarc) == stands["speech"]:
            keys = [key for key in keys if key not in THE_CORPUS]
        else:
            advice += " With a moved or copied corpus a run continues if all its files have the same names and lengths."
    if THE_TEACHER in keys:
        if _is_its_teacher(wanted.model.teacher, folder):
            keys.remove(THE_TEACHER)
        else:
            advice += " With a moved or copied teacher a run continues if the file is the same."
    changed = [f"{k}: {old.get(k)!r} there, {new.get(k)!r} wanted" for k in keys]
    if changed:
        raise UserError(f"{folder}: holds a run of another configuration ({'; '.join(changed[:5])}). {advice}")


def _is_its_teacher(teacher: str | None, folder: Path) -> bool:
    """Whether the weights of a teacher (`ModelConfig.teacher`) have the hash recorded in a run's checkpoints."""
    newest = checkpoint.newest(folder)
    if newest is None or teacher is None:
        return False
    sha256 = checkpoint.load_checkpoint(newest, mapped=True)["Teacher"]["sha256"]
    return sha256 is not None and sha256 == load_teacher(teacher).sha256


def warn_of_changed_speech(run: Run, speech: str) -> None:
    """Warn if the corpus of a resumed run has changed: files were added or removed, or have another length.

    Args:
        run: the resumed run.
        speech: `Expert.speech`.
    """
    if json.loads((run.folder / RUN).read_text()).get("speech", speech) != speech:
        logger.warning(
            "%s: the corpus has changed since this run began (names, lengths or transcripts differ): "
            "its batches will differ from here on.", run.runner.pretrain_expert.datarc.corpus or "embedded",
        )  # fmt: skip


def _same(old: Any, new: Any) -> bool:
    """Whether values are equal, or are two spellings of the path of one file or folder."""
    both_paths = isinstance(old, str) and isinstance(new, str) and os.path.exists(old) and os.path.exists(new)
    return old == new or (both_paths and os.path.realpath(old) == os.path.realpath(new))
