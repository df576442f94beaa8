"""Former defaults: a run that started with them continues with them.

A configuration field that changes what a run computes, and that was added later or has a new default, is declared with
``field(default=..., metadata={"before": ...})``.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any, cast, get_args, get_type_hints


def former_values(cls: type, data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Former defaults that apply to ``data``, by key path (``a.b``): those that ``data`` does not set otherwise.

    Args:
        cls: a dataclass type.
        data: as ``to_dict`` returned it at that time, or a recipe.
        prefix: put before each path.
    """
    found: dict[str, Any] = {}
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        value, hint = data.get(field.name), hints[field.name]
        kinds = [kind for kind in (hint, *get_args(hint)) if dataclasses.is_dataclass(kind)]
        if "before" in field.metadata:
            if data.get(field.name, field.metadata["before"]) == field.metadata["before"]:
                found[prefix + field.name] = field.metadata["before"]
        elif isinstance(value, dict) and kinds:
            found |= former_values(cast("type", kinds[0]), value, f"{prefix}{field.name}.")
    return found


def is_default(obj: Any) -> bool:
    """Whether each field of a dataclass instance has its default, today's or the former one. All must have one."""
    before = {field.name: field.metadata["before"] for field in dataclasses.fields(obj) if "before" in field.metadata}
    own, default = vars(obj), vars(type(obj)())
    return all(own[name] in (default[name], before.get(name, default[name])) for name in own)


def as_before(cls: type, data: dict[str, Any]) -> dict[str, Any]:
    """A copy of a run's or checkpoint's data with its ``former_values``; other data as they are."""
    return with_values(data, former_values(cls, data)) if isinstance(data, dict) else data


def with_values(data: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of plain data with values set at their paths (``a.b``), whose sections must exist."""
    result = copy.deepcopy(data)
    for path, value in values.items():
        *sections, name = path.split(".")
        functools.reduce(operator.getitem, sections, result)[name] = value
    return result
