"""The files that s3prl writes in every run directory, and the logs that users save beside them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from s3prl_pruned.config import UserError

NUMBER = r"(nan|[-+]?inf|[-+]?[\d.]+(?:e[-+]?\d+)?)"
"""A pattern for a float as Python prints it."""


@dataclass(frozen=True, kw_only=True)
class NotedSettings:
    """The settings that s3prl saved at its last start: ``args_*.yaml`` and ``config_*.yaml``."""

    args: dict[str, Any]
    config: dict[str, Any]

    @property
    def upstream(self) -> str | None:
        """The upstream's name, s3prl's ``-u``."""
        return self.args.get("upstream") if isinstance(self.args.get("upstream"), str) else None

    @property
    def checkpoint(self) -> str | None:
        """The upstream's checkpoint, s3prl's ``-k``."""
        return self.args.get("upstream_ckpt") if isinstance(self.args.get("upstream_ckpt"), str) else None

    def expert(self, *keys: str) -> Any:
        """A setting below ``downstream_expert``, or None."""
        value: Any = self.config.get("downstream_expert")
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value


def read_settings(folder: Path) -> NotedSettings:
    """The settings of a run's last call; empty where s3prl saved none."""
    return NotedSettings(args=_newest_yaml(folder, "args_*.yaml"), config=_newest_yaml(folder, "config_*.yaml"))


def saved_steps(folder: Path) -> list[int]:
    """The steps of a run's ``states-<step>.ckpt``, ascending."""
    found = (re.fullmatch(r"states-(0|[1-9]\d*)\.ckpt", path.name) for path in folder.glob("states-*.ckpt"))
    return sorted(int(match[1]) for match in found if match)


def printed_values(folder: Path, prefix: str) -> list[float]:
    """The numbers after a prefix in the captured logs of a folder, in order.

    Raises:
        UserError: if two captured logs end in different numbers, so that the run's cannot be told.
    """
    last = {path.name: values for path in captured_logs(folder) if (values := printed_in(path, prefix))}
    if len({values[-1] for values in last.values()}) > 1:
        listing = ", ".join(f"{name} {values[-1]}" for name, values in last.items())
        raise UserError(
            f"{folder}: the captured logs contradict each other on `{prefix}` ({listing}). Keep one of them."
        )
    return next(iter(last.values()), [])


def captured_logs(folder: Path) -> list[Path]:
    """The files in which the user saved s3prl's output; s3prl's own ``log.log`` is not one of them."""
    paths = [path for pattern in ("*.log", "log.txt", "out.txt") for path in sorted(folder.glob(pattern))]
    return [path for path in paths if path.name != "log.log"]


def printed_in(path: Path, prefix: str) -> list[float]:
    """The numbers after a prefix, a regular expression, at the beginning of a line."""
    # Progress bars overwrite their line with carriage returns.
    lines = [part.strip() for line in read_lines(path) for part in line.split("\r")]
    matches = (re.fullmatch(rf"{prefix}{NUMBER}", line) for line in lines)
    return [float(match[1]) for match in matches if match]


def _newest_yaml(folder: Path, pattern: str) -> dict[str, Any]:
    for path in sorted(folder.glob(pattern), reverse=True):  # named by date
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, OSError, ValueError, RecursionError):
            continue  # another program's file, or one that holds Python objects
        if isinstance(data, dict):
            return data
    return {}


def read_lines(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        UserError: if the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Evaluate the run again.") from error
    return text.removesuffix("\n").split("\n") if text else []
