"""Speech from Debian packages: fetched and unpacked, never installed.

``apt-get download`` checks each package against the signed package lists of the machine, and
``dpkg-deb -x`` unpacks it, both without root. So the same command gives the same speech on every
Debian or Ubuntu machine that offers that version.
"""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.config import UserError


@dataclass(frozen=True, kw_only=True)
class DebianPackage:
    """One unpacked binary package."""

    name: str
    """Binary package name."""

    version: str
    """Debian version, such as ``1.6.1-1``."""

    sha256: str
    """SHA-256 of the ``.deb`` file, hexadecimal."""

    root: Path
    """Folder in place of ``/``."""


def fetch_package(name: str, folder: Path) -> DebianPackage:
    """Download and unpack the binary package ``name`` under ``folder``.

    A ``.deb`` that is already in ``folder`` is used.

    Raises:
        UserError: if the tools are missing, or the package cannot be fetched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not _downloaded(name, folder):
        _run(["apt-get", "download", "-qq", name], cwd=folder, package=name)
    archives = _downloaded(name, folder)
    if len(archives) != 1:
        raise UserError(
            f"{folder}: must hold one archive of the Debian package `{name}`, but holds "
            f"{len(archives)}. Keep the right one, or none."
        )
    root = folder / name
    if not root.exists():
        # Unpacked under a temporary name and moved, so that an interrupted run leaves no half of it.
        partial = folder / f"{name}.partial"
        _run(["dpkg-deb", "-x", str(archives[0]), str(partial)], cwd=folder, package=name)
        partial.rename(root)
    version = _run(["dpkg-deb", "-f", str(archives[0]), "Version"], cwd=folder, package=name)
    digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    return DebianPackage(name=name, version=version.strip(), sha256=digest, root=root)


def _downloaded(name: str, folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{name}_*.deb"))


def _run(command: list[str], *, cwd: Path, package: str) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise UserError(
            f"`{command[0]}` is needed to fetch the Debian package `{package}`, but is not on this "
            "machine. Run this on Debian or Ubuntu."
        ) from error
    except subprocess.CalledProcessError as error:
        raise UserError(
            f"`{' '.join(command)}` must succeed, but ended with status {error.returncode}: "
            f"{error.stderr.strip()}. Try `apt-get update` first."
        ) from error
    return done.stdout
