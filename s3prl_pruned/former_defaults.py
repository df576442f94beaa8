"""Defaults that were others before: a run that began under them goes on under them.

A field of a configuration that came later, or whose default is another now, and that changes what a run computes, says
so with ``field(default=..., metadata={"before": ...})``.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import operator
from collections.abc import Mapping
from typing import Any, cast, get_args, get_type_hints


def former_values(cls: type, data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """What was done by default before today's defaults, by the keys' path (``a.b``), where ``data`` says nothing else.

    Args:
        cls: a dataclass type.
        data: what ``to_dict`` gave at that time, or a recipe.
        prefix: of the paths.
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
    """Whether a dataclass, all of whose fields have one, holds defaults alone: today's, or those before."""
    before = {field.name: field.metadata["before"] for field in dataclasses.fields(obj) if "before" in field.metadata}
    own, default = vars(obj), vars(type(obj)())
    return all(own[name] in (default[name], before.get(name, default[name])) for name in own)


def as_before(cls: type, data: dict[str, Any]) -> dict[str, Any]:
    """A copy of data that a run or checkpoint holds, with ``former_values``; what is no mapping is left to others."""
    return with_values(data, former_values(cls, data)) if isinstance(data, dict) else data


def with_values(data: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of plain data with values at their paths (``a.b``); sections that they are in must be there."""
    result = copy.deepcopy(data)
    for path, value in values.items():
        *sections, name = path.split(".")
        functools.reduce(operator.getitem, sections, result)[name] = value
    return result
