"""A task's settings: plain data, changed and checked before s3prl sees them.

s3prl passes overrides and some names in its YAML to ``eval``. Here overrides are read as YAML, and those names must be
plain names, whoever wrote the file or checkpoint that they come from.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from s3prl_pruned.config import UserError, apply_overrides
from s3prl_pruned.superb.catalogue import TASKS

Config = dict[str, Any]

OPTIONAL_KEYS = {"runner": {"fp16", "evaluate_ratio", "train_dataloader"}}
"""Settings that s3prl reads although its own YAML lacks them."""

FREE_SECTIONS = ("optimizer", "scheduler", "specaug", "downstream_expert.modelrc", "downstream_expert.model")
"""Sections whose keys are the arguments of a class that the settings name."""

TRAINING_SECTIONS = ("runner", "optimizer", "scheduler", "specaug")
"""Sections that a task without training does not read, except ``runner.evaluate_ratio``, used in evaluation."""

PATHS = (
    *(key for task in TASKS.values() for key in task.corpus_keys),
    "datarc.bucket_file",
    "datarc.dict_path",
    "datarc.meta_data",
    "datarc.train_meta_data",
    "datarc.dev_meta_data",
    "datarc.test_meta_data",
    "corpus.lexicon",
    "corpus.lists",
    "text.vocab_file",
)
"""Settings below ``downstream_expert`` that are paths; the files' content is part of the splits' SHA-256."""

NOT_PART_OF_THE_OUTCOME = (
    *(f"downstream_expert.{path}" for path in dict.fromkeys(PATHS)),
    "downstream_expert.datarc.num_workers",
    "downstream_expert.corpus.num_workers",
    "downstream_expert.loaderrc.num_workers",
    "downstream_expert.max_workers",
    "downstream_expert.datarc.pre_load",
    "runner.log_step",
    "runner.save_step",
    "runner.max_keep",
)
"""Settings that do not change a run's result. Where a task reports the best of all saved checkpoints, the interval of
saving does change it: `Driver.selecting`. Other settings that choose a checkpoint (``eval_step``,
``eval_dataloaders``, ``total_steps``, ``save_best_on``, ``metric``) are never among these."""

EVALUATED_NAMES = (
    "optimizer.name",
    "scheduler.name",
    *(
        f"downstream_expert.{path}"
        for path in (
            "modelrc.select",
            "modelrc.UtteranceLevel.pooling",
            "modelrc.DeepModel.model_type",
            "modelrc.module",
            "modelrc.agg_module",
            "modelrc.utter_module",
            "modelrc.ObjectiveLoss",
            "model.select",
            "metric",
        )
    ),
)
"""Settings that s3prl passes to ``eval``: a name, or a list of names."""

FEATURE_OPTIONS = (
    "downstream_variant",
    "upstream_trainable",
    "upstream_feature_selection",
    "upstream_layer_selection",
    "upstream_feature_normalize",
)
"""Arguments of s3prl that decide the result, as settings do."""

OWN_FEATURE_OPTIONS = {
    "single_utterance": "--single-utterance (features without padding)",
    "cache_half": "--cache-half (features in half precision)",
    "layers": "--layers (some of the upstream's layers)",
}
"""Arguments of ours that decide the result too, if set, and their description in a result."""


def get(config: Config, path: str) -> Any:
    """The setting at a dotted path, None if missing."""
    node: Any = config
    for key in path.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    return node


def override(
    args: argparse.Namespace, config: Config, text: str, *, accepted: Sequence[str] = (), trains: bool = True
) -> tuple[argparse.Namespace, Config]:
    """s3prl's ``-o``: ``config.a.b=value,,args.c=value``, with values read as YAML. The inputs are not changed.

    Args:
        args: s3prl's arguments.
        config: the settings.
        text: the assignments.
        accepted: dotted paths of settings that may be set although the settings lack them.
        trains: whether the task has a training.

    Raises:
        UserError: on an unknown setting or argument (the message suggests the nearest), or bad YAML.
    """
    args = argparse.Namespace(**vars(args))
    for assignment in assignments(text):
        scope, _, path = assignment.partition("=")[0].strip().partition(".")
        if scope == "config":
            if not trains and is_of_training(assignment):
                raise UserError(f"-o {assignment}: nothing is trained, so this is not used. Leave it out.")
            if path not in accepted:
                _refuse_unread_key(config, path)
            config = apply_overrides(config, assignment)
        elif scope == "args":
            if path not in vars(args):
                raise UserError(f"-o {assignment}: no such argument.{nearest(path, sorted(vars(args)))}")
            setattr(args, path, apply_overrides({}, f"value={assignment.partition('=')[2]}")["value"])
        else:
            raise UserError(
                f"-o {assignment}: must begin with `config.` or `args.`, such as config.optimizer.lr=1.0e-3."
            )
    return args, numbers(config)


def assignments(text: str) -> list[str]:
    """The assignments in ``-o``."""
    return [part for part in map(str.strip, text.split(",,")) if part]


def is_of_training(assignment: str) -> bool:
    """Whether an assignment of ``-o`` is read only in training."""
    scope, _, path = assignment.partition("=")[0].strip().partition(".")
    section, _, key = path.partition(".")
    return scope == "config" and section in TRAINING_SECTIONS and key != "evaluate_ratio"


def numbers(node: Any) -> Any:
    """Turn text such as 1e-3 into a number: YAML 1.1 needs 1.0e-3, and an optimizer fails on text."""
    if isinstance(node, dict):
        return {key: numbers(value) for key, value in node.items()}
    if isinstance(node, list):
        return [numbers(value) for value in node]
    if isinstance(node, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", node):
        return float(node)
    return node


def check(config: Config, *, trains: bool = True) -> None:
    """Refuse settings that s3prl would evaluate as code, or that would end a run without saving its last steps.

    Args:
        config: the settings.
        trains: whether the task has a training, and so settings of an optimizer and a runner.

    Raises:
        UserError: with the setting, the rule and the value.
    """
    for path in EVALUATED_NAMES:
        value = get(config, path)
        if value is None and (path != "optimizer.name" or not trains):
            continue
        for name in value if isinstance(value, list) else [value]:
            if not isinstance(name, str) or not name.isidentifier():
                raise UserError(f"config.{path}: must be a plain name, but is {name!r}.")
    if trains:
        _check_steps(config["runner"])


def check_dev_is_evaluated(config: Config) -> None:
    """Refuse training that is never evaluated on the development set.

    Raises:
        UserError: if ``runner.eval_dataloaders`` lacks it.
    """
    if "dev" not in config["runner"]["eval_dataloaders"]:
        raise UserError(
            "config.runner.eval_dataloaders: must hold dev, by which the checkpoint is chosen, but does not."
        )


def _check_steps(runner: Config) -> None:
    for path in ("total_steps", "save_step", "eval_step", "log_step", "max_keep", "gradient_accumulate_steps"):
        value = runner.get(path)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"config.runner.{path}: must be a positive whole number, but is {value!r}.")
    # s3prl saves and evaluates at multiples only.
    if runner["total_steps"] % runner["save_step"]:
        raise UserError(
            f"config.runner.save_step: must divide total_steps ({runner['total_steps']}), or the last steps "
            f"would not be saved, but is {runner['save_step']}."
        )
    if runner["eval_step"] > runner["total_steps"]:
        raise UserError(
            f"config.runner.eval_step: must be at most total_steps ({runner['total_steps']}), or no checkpoint "
            f"would be chosen on the development set, but is {runner['eval_step']}."
        )


def differences(config: Config, official: Config, *, selecting: Sequence[str] = ()) -> list[str]:
    """Settings that decide the result and differ from the benchmark's.

    The learning rate is not among them: the benchmark leaves it open.

    Args:
        config: the settings.
        official: the benchmark's settings.
        selecting: other settings that decide which checkpoint is reported (`Driver.selecting`).
    """
    found = _differing(_deciding(config, selecting), _deciding(official, selecting))
    return sorted(found - {"optimizer.lr"})


def settings_sha256(args: argparse.Namespace, config: Config, *, selecting: Sequence[str] = ()) -> str:
    """SHA-256 of the settings and arguments that decide the result, independent of paths.

    Args:
        args: s3prl's arguments.
        config: the settings.
        selecting: other settings that decide which checkpoint is reported (`Driver.selecting`).
    """
    outcome = {
        "config": _deciding(config, selecting),
        "args": {key: getattr(args, key, None) for key in (*FEATURE_OPTIONS, "downstream", "seed")},
    }
    outcome["args"] |= {key: getattr(args, key) for key in OWN_FEATURE_OPTIONS if getattr(args, key, None)}
    return hashlib.sha256(json.dumps(outcome, sort_keys=True).encode()).hexdigest()


def nearest(key: str, known: list[str]) -> str:
    """The advice at the end of a message about an unknown name."""
    matches = difflib.get_close_matches(key, known, n=1)
    return f" Did you mean `{matches[0]}`?" if matches else f" Known: {', '.join(known)}."


def _refuse_unread_key(config: Config, path: str) -> None:
    if any(path.startswith(f"{section}.") for section in FREE_SECTIONS):
        return
    section, keys = config, path.split(".")
    for depth, key in enumerate(keys):
        if not isinstance(section, dict):
            return  # apply_overrides says what is wrong
        known = set(section) | OPTIONAL_KEYS.get(".".join(keys[:depth]), set())
        if key not in known:
            raise UserError(f"-o config.{path}: no such setting.{nearest(key, sorted(known))}")
        section = section.get(key, {})


def _deciding(config: Config, selecting: Sequence[str]) -> Config:
    result = copy.deepcopy(config)
    for path in NOT_PART_OF_THE_OUTCOME:
        if path in selecting:
            continue
        section, _, key = path.rpartition(".")
        parent = get(result, section)
        if isinstance(parent, dict):
            parent.pop(key, None)
    return result


def _differing(ours: Config, theirs: Config, prefix: str = "") -> set[str]:
    """Dotted paths at which two settings differ; for a section that one of them lacks, the section's path."""
    found = set()
    for key in ours.keys() | theirs.keys():
        one, other = ours.get(key), theirs.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found |= _differing(one, other, f"{prefix}{key}.")
        elif one != other or (key in ours) != (key in theirs):
            found.add(f"{prefix}{key}")
    return found
