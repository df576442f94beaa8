"""Synthetic speech by espeak-ng: the installed program, or Debian's packages, unpacked but not installed.

This speech is labelled as synthetic wherever a number measured on it appears.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.mini_superb.clips import trim
from benchmarks.speech.debian import fetch_package
from benchmarks.speech.debian_speech import read_pcm
from s3prl_pruned.config import UserError

NEVER_UNPACKED = re.compile(r"libc6|libgcc-s1|gcc-\d+-base|libelogind0|<.*>")
"""Packages that espeak-ng needs but that are not unpacked.

The C library must be the machine's; elogind stands in for systemd's library.
"""


@dataclass(frozen=True, kw_only=True)
class SyntheticVoice:
    """One of espeak-ng's voices and how it speaks."""

    accent: str
    """Language, such as ``en-us`` or ``en-gb-scotland``."""

    variant: str
    """Timbre, such as ``f3``."""

    pitch: int = 50
    """0 to 99."""

    pitch_range: int = 100
    """Percent of the default."""

    speed: int = 165
    """Words per minute."""

    amplitude: int = 100
    """0 to 200."""


@dataclass(frozen=True, kw_only=True)
class Espeak:
    """The program, ready to run."""

    command: tuple[str, ...]
    environment: dict[str, str]
    version: str

    @classmethod
    def find(cls, packages: Path) -> Espeak:
        """espeak-ng on the path, or else fetched with all its libraries into ``packages/espeak-ng.root``.

        Raises:
            UserError: if neither is available.
        """
        if shutil.which("espeak-ng"):
            return cls._started(("espeak-ng",), {})
        root = _unpack(packages)
        program = root / "usr/bin/espeak-ng"
        data = next(iter(sorted(root.rglob("espeak-ng-data"))))
        folders = sorted({str(path.parent) for path in root.rglob("*.so*")})
        return cls._started((str(program), f"--path={data.parent}"), {"LD_LIBRARY_PATH": ":".join(folders)})

    @classmethod
    def _started(cls, command: tuple[str, ...], environment: dict[str, str]) -> Espeak:
        try:
            run = subprocess.run(
                [*command, "--version"], env=os.environ | environment, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            detail = getattr(error, "stderr", "") or error
            raise UserError(
                f"espeak-ng (for the synthetic tasks IC, SF and ER) does not run: {str(detail).strip()}. Install it "
                "(`apt-get install espeak-ng`), or leave those tasks out with --tasks."
            ) from error
        version = re.search(r"\d+(\.\d+)+", run.stdout)
        return cls(command=command, environment=environment, version=version[0] if version else "unknown")

    def say(self, text: str, voice: SyntheticVoice) -> np.ndarray:
        """``(S,)`` int16 at 16 kHz, without silence at the ends.

        Raises:
            UserError: if espeak-ng fails.
        """
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "said.wav"
            spoken = f'<speak><prosody range="{voice.pitch_range}%">{text}</prosody></speak>'
            command = [*self.command, "-m", "-v", f"{voice.accent}+{voice.variant}", "-p", str(voice.pitch)]
            command += ["-s", str(voice.speed), "-a", str(voice.amplitude), "-w", str(place), spoken]
            run = subprocess.run(
                command, env=os.environ | self.environment, capture_output=True, text=True, check=False
            )
            if run.returncode or not place.is_file():
                raise UserError(f"`{' '.join(command)}` must write speech, but failed: {run.stderr.strip()}")
            return trim(read_pcm(place))


def _unpack(packages: Path) -> Path:
    """A folder in place of ``/``, with espeak-ng and its dependencies (also libraries only for playing sound)."""
    root = packages / "espeak-ng.root"
    if root.exists():
        return root
    options = [f"--no-{kind}" for kind in "recommends suggests conflicts breaks replaces enhances".split()]
    try:
        listing = subprocess.run(
            ["apt-cache", "depends", "--recurse", *options, "espeak-ng"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            "espeak-ng is needed for the synthetic tasks (IC, SF, ER), but is neither installed nor can be fetched "
            f"from Debian packages here ({error}). Install it, or leave those tasks out with --tasks."
        ) from error
    names = [line for line in listing.splitlines() if line and not line[0].isspace() and line[0] != "|"]
    partial = packages / "espeak-ng.root.partial"
    shutil.rmtree(partial, ignore_errors=True)
    for name in names:
        if not NEVER_UNPACKED.fullmatch(name):
            shutil.copytree(fetch_package(name, packages).root, partial, symlinks=True, dirs_exist_ok=True)
    partial.rename(root)
    return root
