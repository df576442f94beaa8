"""From the command line to the checked ``args`` and ``config`` of s3prl's runner.

Nothing here writes into the run's folder, so that a mistake costs nothing.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

from s3prl_pruned import distributed, resources
from s3prl_pruned.config import UserError, load_yaml
from s3prl_pruned.superb.catalogue import Task, find_task
from s3prl_pruned.superb.results.result import SplitRead
from s3prl_pruned.superb.running.options import OURS, make_parser
from s3prl_pruned.superb.tasks import settings
from s3prl_pruned.superb.tasks.checkpoints import load_checkpoint, newest_checkpoint
from s3prl_pruned.superb.tasks.driver import DownstreamRun, Driver
from s3prl_pruned.superb.tasks.drivers import driver_of
from s3prl_pruned.superb.tasks.paths import Paths, corpus_of, read_paths, s3prl_checkout

SETTINGS = resources.settings()
"""The folder of the tasks' settings."""


def make_run(options: argparse.Namespace) -> DownstreamRun:
    """Read and check all that the command line names.

    Raises:
        UserError: on anything that would stop the run later, or silently change its result.
    """
    paths = read_paths(options.paths)
    args, config = _from_checkpoint(options) if options.past_exp else _from_command_line(options, paths)
    task = _task(args, config)
    driver = driver_of(task)
    if args.mode == "inference" and not driver.transcribes:
        raise UserError(f"-m inference: s3prl's {task.name} has none. Give -m evaluate.")
    if options.override:
        accepted = [f"downstream_expert.{path}" for path in (*task.corpus_keys, *driver.optional_settings)]
        args, config = settings.override(args, config, options.override, accepted=accepted, trains=driver.trains)
    config = settings.numbers(config)
    args.declared_protocol = config.pop("protocol", None) or getattr(args, "declared_protocol", "custom")
    _check_features(args, driver, config)
    settings.check(config, trains=driver.trains)
    driver.check(config)
    corpus, embedded = _corpus(options, paths, task, config)
    args.downstream, args.superb_task = task.downstream, task.name
    args.evaluate_split = args.evaluate_split or task.test_split
    args.expdir = args.expdir or str(Path("results") / (args.expname or args.upstream) / task.name)
    splits = driver.prepare(args, config, corpus=corpus, s3prl_root=s3prl_checkout(options.s3prl_root, paths))
    protocol, note = _protocol(driver, args, config, splits)
    return DownstreamRun(
        task=task,
        driver=driver,
        args=args,
        config=config,
        folder=Path(args.expdir),
        corpus=corpus,
        embedded=embedded,
        splits=splits,
        protocol=protocol,
        protocol_note=note,
        config_sha256=settings.settings_sha256(args, config, selecting=driver.selecting),
        former_sha256=settings.settings_sha256(args, config),
    )


def _from_command_line(options: argparse.Namespace, paths: Paths) -> tuple[argparse.Namespace, dict[str, Any]]:
    for letter, name in (("-u", "upstream"), ("-d", "downstream")):
        if getattr(options, name) is None:
            raise UserError(f"{letter} is missing. Type `python run_downstream.py -u wavlm_pruned -d asr`, or -h.")
    task = find_task(options.downstream)
    driver_of(task)  # raises for a task that cannot be run: it has no settings
    args = _s3prl_arguments(options)
    if args.config is None:
        embedded = SETTINGS / f"embedded_{task.name}.yaml"
        named = corpus_of(task, options.corpus, paths) or _named_by_override(options, task)
        args.config = str(SETTINGS / f"{task.name}.yaml" if named or not embedded.is_file() else embedded)
    return args, load_yaml(args.config)


def _from_checkpoint(options: argparse.Namespace) -> tuple[argparse.Namespace, dict[str, Any]]:
    """As with s3prl's ``-e``: all but a few arguments come from the checkpoint."""
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


def _task(args: argparse.Namespace, config: dict[str, Any]) -> Task:
    """The task. In a checkpoint ``-d`` is s3prl's name, and ``ctc`` serves two tasks: the corpus tells which."""
    corpus = settings.get(config, "downstream_expert.corpus.name")
    name = getattr(args, "superb_task", None) or args.downstream
    return find_task({"libriphone": "pr", "snips": "sf"}.get(corpus, name) if name == "ctc" else name)


def _s3prl_arguments(options: argparse.Namespace) -> argparse.Namespace:
    return argparse.Namespace(**{key: value for key, value in vars(options).items() if key not in OURS})


def _check_features(args: argparse.Namespace, driver: Driver, config: dict[str, Any]) -> None:
    """Check ``--single-utterance``, ``--cache-features``, ``--cache-half`` and ``--layers``, and set what they imply.

    Raises:
        UserError: if features cannot be cached, or layers cannot be chosen.
    """
    args.cache_half, args.layers = getattr(args, "cache_half", False), tuple(getattr(args, "layers", ()))
    args.cache_features = getattr(args, "cache_features", False) or args.cache_half  # missing in an older checkpoint
    if args.layers and (args.upstream_trainable or args.upstream_layer_selection is not None or not driver.trains):
        raise UserError("--layers: is for a weighted sum over a frozen upstream. Leave it out, or -f and -l.")
    args.single_utterance = getattr(args, "single_utterance", False) or args.cache_features
    if args.single_utterance and args.upstream_trainable:
        raise UserError("--single-utterance and --cache-features are for a frozen upstream. Leave -f out.")
    at_random = driver.random_waveforms(config)
    if args.cache_features and at_random:
        raise UserError(
            f"--cache-features: {driver.task.name} {at_random}, so that no features are used twice. Give "
            "--single-utterance alone, or neither."
        )


def _corpus(options: argparse.Namespace, paths: Paths, task: Task, config: dict[str, Any]) -> tuple[Path, bool]:
    """Where the corpus is, and whether it is the embedded one.

    In this order: ``--corpus``; ``-o``; the path in the checkpoint of ``-e``, if it still exists; environment and
    ``paths.yaml``; the path in the settings; the embedded corpus, with its own settings.
    """
    key = f"downstream_expert.{task.corpus_keys[0]}"
    in_settings = settings.get(config, key)
    still_there = options.past_exp and in_settings and Path(in_settings).exists()
    if not options.corpus and in_settings and (_named_by_override(options, task) or still_there):
        return Path(in_settings), False
    named = corpus_of(task, options.corpus, paths) or in_settings
    if named:
        return Path(named), False
    if not options.config and (SETTINGS / f"embedded_{task.name}.yaml").is_file():
        from s3prl_pruned.data.corpus import embedded_corpus

        return embedded_corpus(), True
    named_by = f"{options.config}: names no corpus. " if options.config else ""
    raise UserError(
        f"{named_by}-d {task.name} ({task.title}) needs the corpus {task.corpus}, available at {task.corpus_source}. "
        f"Give its folder by --corpus DIR, `{task.name}: DIR` in paths.yaml, "
        f"S3PRL_PRUNED_{task.name.upper()}_CORPUS, or -o config.{key}."
    )


def _named_by_override(options: argparse.Namespace, task: Task) -> bool:
    return f"config.downstream_expert.{task.corpus_keys[0]}" in (options.override or "")


def _processes(found: list[str], config: dict[str, Any], official: dict[str, Any]) -> list[str]:
    """The differences from the benchmark that are left with several processes, which make a step's batch larger.

    Accumulating fewer batches makes up for it, as s3prl advises; these settings are then removed from ``found``.
    """
    if distributed.world_size() == 1:
        return []
    key = "gradient_accumulate_steps"
    if config["runner"][key] * distributed.world_size() == official["runner"][key]:
        found.remove(f"runner.{key}")
        return []
    return [f"{distributed.world_size()} processes"]


def _protocol(
    driver: Driver, args: argparse.Namespace, config: dict[str, Any], splits: list[SplitRead]
) -> tuple[str, str | None]:
    """The run's protocol: "official" only if it really is, whatever its settings declare."""
    official = load_yaml(SETTINGS / f"{driver.task.name}.yaml")
    official.pop("protocol")
    defaults = make_parser()
    found = settings.differences(config, official, selecting=driver.selecting)
    found += _processes(found, config, official)
    found += [key for key in settings.FEATURE_OPTIONS if getattr(args, key, None) != defaults.get_default(key)]
    found += [said for key, said in settings.OWN_FEATURE_OPTIONS.items() if getattr(args, key, None)]
    found += driver.differences(splits)
    if not found:
        return "official", None
    declared = "custom" if args.declared_protocol == "official" else args.declared_protocol
    return declared, "differs from the benchmark in " + ", ".join(dict.fromkeys(found))
