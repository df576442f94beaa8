"""Strict configuration: plain YAML into dataclasses whose defaults are the paper's.

A recipe is a dataclass that lives beside what it configures; this module only fills it. Every
key is checked by name and by type, so that a misspelt key stops the run instead of leaving a
default in place. Nothing read from a file or a command line is ever evaluated.

    @dataclass(kw_only=True)
    class Distill:
        learning_rate: float = 2e-4
        '''Peak learning rate of the weights.'''

        def validate(self) -> None:
            if self.learning_rate <= 0:
                raise UserError(f"`learning_rate` must be positive, but is {self.learning_rate}.")

    recipe = from_dict(Distill, load_yaml("config_model.yaml"), where="config_model.yaml")
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import math
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

T = TypeVar("T")
ADDED = {"added": True}
"""Metadata of a field that was added later: `to_dict` leaves it out at its default, so older files and hashes stay."""


class UserError(ValueError):
    """An error that a user or a file causes. It says what is wrong, the rule, the value and what to do.

    Command lines print it as ``error: ...`` and exit with status 2.
    """


def from_dict(cls: type[T], data: dict[str, Any], where: str) -> T:
    """Build the dataclass ``cls`` from plain data, strictly.

    Field types may be ``int``, ``float``, ``bool``, ``str``, ``Literal[...]``, ``X | None``,
    ``list[X]``, ``tuple[X, ...]``, ``tuple[X, Y]`` and nested dataclasses. If the dataclass
    defines a static ``renew(data)``, it is called first and converts an older spelling of the data
    to today's. If it defines ``validate()``, that is called after construction, innermost first.

    Args:
        cls: a dataclass type.
        data: as ``load_yaml`` or ``json.load`` returns it.
        where: the name of the source in messages, usually the file.

    Raises:
        UserError: on an unknown or missing key, a value of another type, or whatever
            ``validate()`` finds. The message begins ``{where}: {key.path}: ``.
    """
    return _dataclass(cls, data, where, "")


def to_dict(obj: Any) -> dict[str, Any]:
    """The plain data (dicts, lists, scalars) of a dataclass: the inverse of ``from_dict``.

    Tuples become lists, so that YAML and JSON return the same data. A field with the metadata
    ``ADDED`` is left out when it has its default value.
    """
    if not dataclasses.is_dataclass(obj) or isinstance(obj, type):
        raise TypeError(f"to_dict takes a dataclass instance, but got {obj!r}.")
    return {
        field.name: _plain(value)
        for field in dataclasses.fields(obj)
        if field.init and ((value := getattr(obj, field.name)) != field.default or field.metadata != ADDED)
    }


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of keys. An empty file is an empty dict.

    Raises:
        UserError: if the file is missing, unreadable, not YAML, not a mapping, or names a key
            twice (YAML readers silently keep the last one).
    """
    data = _read_yaml(Path(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path}: must hold `key: value` lines, but holds a {type(data).__name__}: {_show(data)}.")
    return data


def load_yaml_list(path: str | Path) -> list[dict[str, Any]]:
    """Read a YAML file of several entries, ``- key: value`` each.

    Raises:
        UserError: as ``load_yaml``, or if the file is not a list of mappings.
    """
    data = _read_yaml(Path(path))
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        raise UserError(f"{path}: must hold entries of `- key: value` lines, but holds {_show(data)}.")
    return data


def laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``below`` updated by ``above``: mappings are merged key by key, other values (lists too) replaced."""
    result = copy.deepcopy(below)
    for key, value in above.items():
        under = result.get(key)
        if isinstance(under, dict) and isinstance(value, dict):
            result[key] = laid_over(under, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def apply_overrides(data: dict[str, Any], overrides: str | Sequence[str]) -> dict[str, Any]:
    """A copy of ``data`` with ``key.sub=value`` assignments applied, later ones winning.

    Args:
        data: plain data, as ``load_yaml`` returns it. Not changed.
        overrides: assignments, in a list or in s3prl's form, one text separated by ``,,``. s3prl's
            leading ``config.`` is dropped. Values are parsed as YAML (``null``, ``[1, 2]``,
            ``true``), never evaluated. Missing sections are created.

    Raises:
        UserError: on an assignment without ``=``, key or value, or whose path goes through a plain value.
    """
    result = copy.deepcopy(data)
    texts = [overrides] if isinstance(overrides, str) else list(overrides)
    for assignment in (part.strip() for text in texts for part in text.split(",,")):
        if assignment:
            _assign(result, assignment)
    return result


def _assign(data: dict[str, Any], assignment: str) -> None:
    key_path, equals, text = (part.strip() for part in assignment.partition("="))
    if "config" not in data:
        key_path = key_path.removeprefix("config.")
    keys = key_path.split(".")
    if not equals or not text or not all(keys):
        raise UserError(
            f"override {assignment!r}: must be written key.sub=value "
            "(for no value write key=null; separate several by ,,)."
        )
    section = data
    for depth, key in enumerate(keys[:-1], start=1):
        # A recipe holds only what differs from its base, so a section may be missing or empty.
        if section.get(key) is None:
            section[key] = {}
        section = section[key]
        if not isinstance(section, dict):
            raise UserError(
                f"override {assignment!r}: {'.'.join(keys[:depth])} is not a section, "
                f"but the value {_show(section)}; it has no key {keys[depth]!r}."
            )
    section[keys[-1]] = _parse_yaml(text, f"override {assignment!r}")


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses a repeated key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = (key_node.tag, str(key_node.value))
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Give the path of an existing YAML file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    return _parse_yaml(text, str(path))


def _parse_yaml(text: str, where: str) -> Any:
    try:
        # _StrictLoader is a SafeLoader: it creates plain data only.
        return yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: is not valid YAML ({reason}).") from error


def _dataclass(cls: type, data: Any, where: str, path: str) -> Any:
    if not isinstance(data, dict):
        raise _error(where, path, "must be a section of `key: value` lines", data)
    with _located_at(where, path):
        renew = getattr(cls, "renew", None)
        data = data if renew is None else renew(data)
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in data:
        if key not in fields:
            raise _unknown_key(where, _join(path, key), key, list(fields))
    values = {key: _value(hints[key], value, where, _join(path, key)) for key, value in data.items()}
    for name, field in fields.items():
        if name not in values and _has_no_default(field):
            raise UserError(f"{_at(where, _join(path, name))}: required, but not given. Add this key.")
    result = cls(**values)
    if hasattr(result, "validate"):
        with _located_at(where, path):
            result.validate()
    return result


@contextlib.contextmanager
def _located_at(where: str, path: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{_at(where, path)}: {error}") from error


def _value(hint: Any, value: Any, where: str, path: str) -> Any:
    """Check ``value`` against the annotation ``hint``, and return it in the field's own type."""
    origin, args = get_origin(hint), get_args(hint)
    if hint in _SCALARS:
        return _SCALARS[hint](value, where, path)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, where, path)
    if origin is Literal:
        return _literal(args, value, where, path)
    if origin in (Union, types.UnionType) and len(args) == 2 and type(None) in args:
        (inner,) = (arg for arg in args if arg is not type(None))
        return None if value is None else _value(inner, value, where, path)
    if origin in (list, tuple):
        return _sequence(origin, args, value, where, path)
    raise TypeError(f"{_at(where, path)}: config fields of type {hint!r} are not supported.")


def _sequence(origin: type, args: tuple, value: Any, where: str, path: str) -> list | tuple:
    if not isinstance(value, (list, tuple)):
        raise _error(where, path, "must be a list, such as [1, 2]", value)
    if origin is tuple and args[-1] is not Ellipsis:
        if len(value) != len(args):
            raise _error(where, path, f"must be a list of {len(args)} values", value)
        hints = args
    else:
        hints = (args[0],) * len(value)
    items = zip(hints, value, strict=True)
    return origin(_value(h, v, where, f"{path}[{i}]") for i, (h, v) in enumerate(items))


def _literal(choices: tuple, value: Any, where: str, path: str) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return value
    rule = "must be one of " + ", ".join(str(choice) for choice in choices)
    raise _error(where, path, rule, value)


def _bool(value: Any, where: str, path: str) -> bool:
    if not isinstance(value, bool):
        raise _error(where, path, "must be true or false", value)
    return value


def _int(value: Any, where: str, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _error(where, path, "must be a whole number written in digits", value)
    return value


def _float(value: Any, where: str, path: str) -> float:
    # PyYAML reads 2e-4 as a string (YAML 1.1 wants 2.0e-4); float() accepts plain numbers only.
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise _error(where, path, "must be a finite number", value)
    return number


def _str(value: Any, where: str, path: str) -> str:
    if not isinstance(value, str):
        raise _error(where, path, "must be text (put it in quotes)", value)
    return value


_SCALARS = {bool: _bool, int: _int, float: _float, str: _str}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _has_no_default(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _unknown_key(where: str, path: str, key: Any, known: list[str]) -> UserError:
    nearest = difflib.get_close_matches(str(key), known, n=1)
    advice = f"Did you mean `{nearest[0]}`?" if nearest else f"Known keys: {', '.join(known)}."
    return UserError(f"{_at(where, path)}: unknown key. {advice}")


def _error(where: str, path: str, rule: str, value: Any) -> UserError:
    return UserError(f"{_at(where, path)}: {rule}, but is {_show(value)}.")


def _show(value: Any, limit: int = 80) -> str:
    text = "empty" if value is None else repr(value)
    return text if len(text) <= limit else text[:limit] + "..."


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _at(where: str, path: str) -> str:
    return f"{where}: {path}" if path else where
