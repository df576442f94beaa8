"""From the command line to what s3prl's runner takes: its ``args`` and its ``config``, checked.

Nothing here writes into the run's folder, so that a mistake costs nothing.
"""

from __future__ import annotations

import argparse
import copy
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3prl_pruned.checkpoint import load_checkpoint as read_checkpoint
from s3prl_pruned.config import UserError, load_yaml
from s3prl_pruned.superb import librispeech, settings
from s3prl_pruned.superb.options import OURS, make_parser
from s3prl_pruned.superb.results import SplitRead
from s3prl_pruned.superb.tasks import Task, find_task

logger = logging.getLogger(__name__)

SETTINGS = Path(__file__).resolve().parents[2] / "downstream_runs"
"""Where the tasks' settings lie in a clone."""


@dataclass(kw_only=True)
class Experiment:
    """One run of one task."""

    task: Task
    args: argparse.Namespace
    """s3prl's arguments."""
    config: dict[str, Any]
    """s3prl's settings, with the corpus' paths filled in."""
    folder: Path
    corpus: Path
    embedded: bool
    """Whether the corpus is the one that comes with the package."""
    splits: list[SplitRead]
    """The splits that this call reads."""
    protocol: str
    protocol_note: str | None
    config_sha256: str

    def num_utterances(self, key: str) -> int:
        """Utterances in a split, by s3prl's name of it."""
        return sum(split.num_utterances for split in self.splits if split.key == key)


def make_experiment(options: argparse.Namespace) -> Experiment:
    """Read and check everything that the command line names.

    Raises:
        UserError: on anything that would stop the run later, or change its result silently.
    """
    args, config = _from_checkpoint(options) if options.past_exp else _from_command_line(options)
    task = find_task(args.downstream)
    _refuse_tasks_without_a_reader(task)
    if options.override:
        args, config = settings.override(args, config, options.override)
    config = settings.numbers(config)
    args.declared_protocol = config.pop("protocol", None) or getattr(args, "declared_protocol", "custom")
    settings.check(config)
    corpus, embedded = _corpus(options, config)
    args.downstream = task.downstream
    args.evaluate_split = args.evaluate_split or task.test_split
    args.expdir = args.expdir or str(Path("results") / (args.expname or args.upstream) / task.name)
    splits = _prepare_asr(args, config, corpus)
    protocol, note = _protocol(args, config, splits)
    return Experiment(
        task=task,
        args=args,
        config=config,
        folder=Path(args.expdir),
        corpus=corpus,
        embedded=embedded,
        splits=splits,
        protocol=protocol,
        protocol_note=note,
        config_sha256=settings.settings_sha256(args, config),
    )


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest ``states-<step>.ckpt`` of a run that can be read; None if there is none.

    s3prl writes checkpoints in place, so that a killed run may leave half of one.
    """
    numbered = [(path, re.fullmatch(r"states-(\d+)\.ckpt", path.name)) for path in folder.glob("states-*.ckpt")]
    for _, path in sorted(((int(match[1]), path) for path, match in numbered if match), reverse=True):
        try:
            load_checkpoint(path)
            return path
        except UserError as error:
            logger.warning("%s Looking for the one before it.", error)
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read one of s3prl's downstream checkpoints, running nothing from it. ``compat.apply()`` must have been called.

    Raises:
        UserError: if it is missing, truncated, holds foreign classes, or is of another kind.
    """
    checkpoint = read_checkpoint(path)
    if (
        not isinstance(checkpoint.get("Args"), argparse.Namespace)
        or not isinstance(checkpoint.get("Config"), dict)
        or not isinstance(checkpoint.get("Step"), int)
    ):
        raise UserError(f"{path}: must be a downstream checkpoint of s3prl (Args, Config, Step), but is not.")
    return checkpoint


def _from_command_line(options: argparse.Namespace) -> tuple[argparse.Namespace, dict[str, Any]]:
    for letter, name in (("-u", "upstream"), ("-d", "downstream")):
        if getattr(options, name) is None:
            raise UserError(f"{letter} is missing. Type `python run_downstream.py -u wavlm_pruned -d asr`, or -h.")
    task = find_task(options.downstream)
    _refuse_tasks_without_a_reader(task)
    args = _s3prl_arguments(options)
    if args.config is None:
        args.config = str(SETTINGS / (f"{task.name}.yaml" if options.corpus else f"embedded_{task.name}.yaml"))
    return args, load_yaml(args.config)


def _from_checkpoint(options: argparse.Namespace) -> tuple[argparse.Namespace, dict[str, Any]]:
    """As s3prl's ``-e``: all but a few arguments come from the checkpoint."""
    path = Path(options.past_exp)
    if path.is_dir():
        found = newest_checkpoint(path)
        if found is None:
            raise UserError(f"{path}: holds no readable states-<step>.ckpt to go on with.")
        path = found
    checkpoint = load_checkpoint(path)
    args = _s3prl_arguments(options)
    kept = ("mode", "evaluate_split", "override", "backend", "local_rank", "past_exp", "device")
    vars(args).update({key: value for key, value in vars(checkpoint["Args"]).items() if key not in kept})
    args.init_ckpt = str(path)
    return args, copy.deepcopy(checkpoint["Config"])


def _s3prl_arguments(options: argparse.Namespace) -> argparse.Namespace:
    return argparse.Namespace(**{key: value for key, value in vars(options).items() if key not in OURS})


def _refuse_tasks_without_a_reader(task: Task) -> None:
    if task.name == "asr":
        return
    keys = " and ".join(f"config.downstream_expert.{key}" for key in task.corpus_keys)
    raise UserError(
        f"-d {task.name} ({task.title}) needs the corpus {task.corpus}, to be had at {task.corpus_source}. "
        f"Its folder belongs in --corpus DIR, or -o {keys}. This version runs -d asr only."
    )


def _corpus(options: argparse.Namespace, config: dict[str, Any]) -> tuple[Path, bool]:
    """--corpus, else what the settings name, else the embedded one with the settings made for it."""
    named = options.corpus or settings.get(config, "downstream_expert.datarc.libri_root")
    if named:
        return Path(named), False
    if options.config:
        raise UserError(f"{options.config}: names no corpus (downstream_expert.datarc.libri_root). Give --corpus DIR.")
    from s3prl_pruned.data.corpus import embedded_corpus

    return embedded_corpus(), True


def _prepare_asr(args: argparse.Namespace, config: dict[str, Any], corpus: Path) -> list[SplitRead]:
    """Check the splits that this call reads, and fill in the paths that s3prl wants."""
    datarc = settings.get(config, "downstream_expert.datarc")
    keys = {
        "all": ["train", *settings.get(config, "runner.eval_dataloaders"), args.evaluate_split],
        "train": ["train", *settings.get(config, "runner.eval_dataloaders")],
        "evaluate": [args.evaluate_split],
        "inference": [],
    }[args.mode]
    read, folders = [], {}
    for key in dict.fromkeys(keys):
        if not isinstance(datarc.get(key), list):
            known = [name for name, value in datarc.items() if isinstance(value, list)]
            raise UserError(f"split {key!r}: not in config.downstream_expert.datarc.{settings.nearest(key, known)}")
        for name in datarc[key]:
            folders[name] = folders.get(name) or librispeech.read_split(corpus, name)
            split = folders[name]
            read.append(SplitRead(key=key, folder=name, num_utterances=len(split.audio), sha256=split.stamp))
        if key != "train":
            count = sum(split.num_utterances for split in read if split.key == key)
            librispeech.refuse_lost_utterances(count, datarc["eval_batch_size"], key)
    datarc["libri_root"] = str(corpus)
    datarc["bucket_file"] = str(librispeech.write_bucket_lengths(corpus, list(folders.values())))
    datarc["dict_path"] = str(Path(args.expdir) / "char.dict")
    return read


def _protocol(args: argparse.Namespace, config: dict[str, Any], splits: list[SplitRead]) -> tuple[str, str | None]:
    """What the run may call itself: "official" only if it is, whatever its settings declare."""
    official = load_yaml(SETTINGS / "asr.yaml")
    official.pop("protocol")
    defaults = make_parser()
    found = settings.differences(config, official)
    found += [key for key in settings.FEATURE_OPTIONS if getattr(args, key, None) != defaults.get_default(key)]
    found += [
        f"{split.num_utterances} utterances in {split.folder}"
        for split in splits
        if split.num_utterances != librispeech.OFFICIAL_SIZES.get(split.folder, split.num_utterances)
    ]
    if not found:
        return "official", None
    declared = "custom" if args.declared_protocol == "official" else args.declared_protocol
    return declared, "differs from the benchmark in " + ", ".join(dict.fromkeys(found))
