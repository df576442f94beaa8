"""Which s3prl this process would import: s3prl's own release, its maintained fork, or a clone of either.

Two distributions of the package index install the same module ``s3prl``: ``s3prl`` and ``espnet-s3prl``, which ESPnet's
developers maintain. pip does not know that they exclude one another: it writes the second one's files over those of
the first, and an import then gets a mixture.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from s3prl_pruned.config import UserError

DISTRIBUTIONS = {"s3prl": "s3prl", "espnet-s3prl": "espnet"}
"""The distributions that install the module ``s3prl``, and our extra that installs each."""

_FILE = "s3prl/__init__.py"
_ANEW = f"Type `pip uninstall -y {' '.join(DISTRIBUTIONS)}`, then `pip install` one of the two."


@dataclass(frozen=True)
class Host:
    """A distribution of s3prl."""

    name: str
    """As the package index spells it. A clone that belongs to no distribution is called ``s3prl``."""
    version: str
    """From its metadata, or a clone's ``version.txt``."""

    def __str__(self) -> str:
        """Such as ``s3prl 0.4.18``."""
        return f"{self.name} {self.version}"


def installed_hosts() -> list[Host]:
    """The hosts whose files ``import s3prl`` would read. Imports nothing.

    Returns:
        One host; none where there is no s3prl; both where one was installed over the other.
    """
    file = _module_file()
    if file is None:
        return []
    found = [(_host(distribution), _recorded_file(distribution)) for distribution in _distributions()]
    owners = [named for named, recorded in found if recorded == file]
    # An editable installation records no such file. What was recorded elsewhere on the path is not what is imported.
    editable = [named for named, recorded in found if recorded is None]
    # A folder that is on the path twice yields its distributions twice.
    return list(dict.fromkeys(owners or editable[:1])) or [Host("s3prl", _version_of_clone(file.parent))]


def host() -> Host:
    """The one host of this process.

    Raises:
        UserError: if there is none, if its files are gone, or if one is installed over the other.
    """
    found = installed_hosts()
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"s3prl: {' and '.join(DISTRIBUTIONS)} both install this module, so only one of them may be installed, but "
            f"{' and '.join(map(str, found))} are, and their files are mixed. {_ANEW}"
        )
    listed = " and ".join(str(_host(distribution)) for distribution in _distributions())
    if listed:  # such as after uninstalling one of two, which removes the files of both
        raise UserError(f"s3prl: {listed} must be importable since pip lists it, but its files are gone. {_ANEW}")
    raise UserError(
        "s3prl: must be installed, since our upstreams, tasks and downloads run inside it, but is not. "
        "Type `pip install s3prl`, or `pip install espnet-s3prl` for the fork that ESPnet's developers maintain; one "
        "of the two, not both."
    )


def _module_file() -> Path | None:
    try:
        spec = importlib.util.find_spec("s3prl")
    except ValueError:  # a stand-in without a spec
        return None
    # Folders that an uninstallation left behind are a namespace package, without a file.
    return None if spec is None or spec.origin is None else Path(spec.origin).resolve()


def _distributions() -> Iterator[metadata.Distribution]:
    for name in DISTRIBUTIONS:
        yield from metadata.distributions(name=name)


def _host(distribution: metadata.Distribution) -> Host:
    return Host(distribution.metadata["Name"], distribution.version)


def _recorded_file(distribution: metadata.Distribution) -> Path | None:
    """Where the distribution says that it put the module; None where it does not say."""
    record = distribution.read_text("RECORD") or ""
    if not any(line.startswith(f"{_FILE},") for line in record.splitlines()):
        return None
    return Path(str(distribution.locate_file(_FILE))).resolve()


def _version_of_clone(folder: Path) -> str:
    try:
        return (folder / "version.txt").read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"
