"""Hand-written results: a YAML list of models, every value with its unit.

An example::

    - model: my encoder
      params_millions: 26.6        # optional, as is `source`
      source: a paper
      asr: {wer: {value: 10.6, unit: percent}}
      ks: {acc: {value: 0.9657, unit: fraction}}
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3prl_pruned.config import UserError, from_dict, load_yaml_list
from s3prl_pruned.superb.catalogue import TASKS, Task, Unit, Value


@dataclass(kw_only=True)
class _Number:
    value: float
    unit: Unit


@dataclass(kw_only=True)
class _Model:
    model: str
    params_millions: float | None = None
    source: str | None = None

    def validate(self) -> None:
        if self.params_millions is not None and self.params_millions <= 0:
            raise UserError(f"`params_millions` must be positive, but is {self.params_millions}.")


@dataclass(frozen=True, kw_only=True)
class GivenModel:
    """One entry of the hand-written file."""

    model: str
    params_millions: float | None
    source: str | None
    metrics: dict[str, list[Value]]
    """Metrics by the task's short name."""


def read_given(path: Path) -> list[GivenModel]:
    """The models of a hand-written file.

    Raises:
        UserError: if the file is no such list, names an unknown task or metric (the message suggests the nearest), has
            a value without its unit or an impossible value, or names a model twice.
    """
    models = [_model(entry, f"{path}: entry {number}") for number, entry in enumerate(load_yaml_list(path), start=1)]
    names = [model.model for model in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not models:
        found = f"{twice[0]} is there twice" if twice else "names none"
        raise UserError(f"{path}: must name every model once, but {found}.")
    return models


def _model(entry: dict[str, Any], where: str) -> GivenModel:
    heads = _Model.__dataclass_fields__
    head = from_dict(_Model, {key: value for key, value in entry.items() if key in heads}, where)
    metrics = {}
    for name, values in entry.items():
        if name in heads:
            continue
        task = _task(name, f"{where} ({head.model})")
        if task.name in metrics:
            raise UserError(f"{where} ({head.model}): task {task.name} is given twice.")
        metrics[task.name] = _values(values, task, f"{where} ({head.model})")
    if not metrics:
        raise UserError(
            f"{where} ({head.model}): gives no task. Add one, such as asr: {{wer: {{value: 10.6, unit: percent}}}}."
        )
    return GivenModel(model=head.model, params_millions=head.params_millions, source=head.source, metrics=metrics)


def _task(name: Any, where: str) -> Task:
    known = {task.name: task for task in TASKS.values()}
    known |= {task.downstream: task for task in TASKS.values() if task.downstream != "ctc"}
    if name in known:
        return known[name]
    raise UserError(f"{where}: {name}: no such SUPERB task. {_nearest(name, [*known, *_Model.__dataclass_fields__])}")


def _values(values: Any, task: Task, where: str) -> list[Value]:
    metrics = {metric.name: metric for metric in task.metrics}
    known = [*metrics, "cer"] if task.name == "asr" else list(metrics)
    if not isinstance(values, dict) or not values:
        raise UserError(f"{where}: {task.name}: must give metrics by name ({', '.join(known)}), but is {values!r}.")
    read = []
    for name, number in values.items():
        if name not in known:
            raise UserError(f"{where}: {task.name}: {name}: no such metric. {_nearest(name, known)}")
        if not isinstance(number, dict):
            raise UserError(
                f"{where}: {task.name}: {name}: must have its unit, {{value: {number}, unit: percent}} or "
                f"unit: fraction, but is {number!r}."
            )
        value = Value(name=name, **vars(from_dict(_Number, number, f"{where}: {task.name}: {name}")))
        metric = metrics.get(name, task.metrics[0])
        metric.check(value, f"{where}: {task.name}")
        if doubt := metric.doubt(value):
            raise UserError(f"{where}: {task.name}: {doubt}. Put its unit right.")
        read.append(value)
    return read


def _nearest(name: Any, known: list[str]) -> str:
    nearest = difflib.get_close_matches(str(name).lower(), known, n=1)
    return f"Did you mean `{nearest[0]}`?" if nearest else f"Known are: {', '.join(known)}."
