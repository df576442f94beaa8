"""Writing one corpus of MINI-SUPERB: completely or not at all, with checksums; an existing corpus is reused.

A corpus is written below ``DIR/.<name>.partial`` and moved to its place when it is complete, together with its record
``DIR/manifest/<name>.json``: the SHA-256 of every file, and what the README's table says.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from s3prl_pruned.checkpoint import write_text
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE

logger = logging.getLogger(__name__)

Record = dict[str, Any]


class CorpusWriter:
    """Writes the files of one corpus below ``root`` and records them.

    Attributes:
        files: SHA-256 of each written file by its path below ``root``.
        splits: utterances, seconds and speakers of each split.
    """

    def __init__(self, root: Path):
        self.root = root
        self.files: dict[str, str] = {}
        self.splits: dict[str, dict[str, Any]] = {}
        self._content: dict[str, str] = {}

    def audio(self, path: str, wav: np.ndarray, *, split: str | None, speaker: str | None) -> None:
        """Write ``(S,)`` int16 at 16 kHz as WAV or FLAC, by the suffix, and count it in its split.

        Args:
            path: path below the corpus.
            wav: the samples.
            split: the split; None if the same audio is counted elsewhere.
            speaker: the speaker; None if nobody speaks.
        """
        target = self._place(path)
        try:
            soundfile.write(target, wav, SAMPLE_RATE, subtype="PCM_16")
        except soundfile.SoundFileError as error:  # it does not say why; usually a full disk
            raise UserError(f"{target}: could not be written ({error}). Make room and repeat the command.") from error
        # Hash of the samples: FLAC's bytes depend on the encoder's version, the samples do not.
        self._account(path, target, hashlib.sha256(wav.astype("<i2").tobytes()).hexdigest())
        if split is None:
            return
        entry = self.splits.setdefault(split, {"utterances": 0, "seconds": 0.0, "speakers": []})
        entry["utterances"] += 1
        entry["seconds"] += len(wav) / SAMPLE_RATE
        if speaker is not None and speaker not in entry["speakers"]:
            entry["speakers"].append(speaker)

    def text(self, path: str, text: str) -> None:
        """Write a text file, UTF-8."""
        target = self._place(path)
        target.write_text(text, encoding="utf-8")
        self._account(path, target, hashlib.sha256(text.encode()).hexdigest())

    def content(self) -> str:
        """SHA-256 over all paths with their samples or texts: equal if two machines made the same corpus."""
        lines = [f"{digest}  {path}\n" for path, digest in sorted(self._content.items())]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _place(self, path: str) -> Path:
        if path in self.files:
            raise AssertionError(f"{path} is written twice")
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _account(self, path: str, target: Path, content: str) -> None:
        self.files[path] = _sha256(target)
        self._content[path] = content


def make_corpus(root: Path, name: str, write: Callable[[CorpusWriter], Record], *, variant: str) -> Record:
    """Make one corpus below ``root``, or reuse the existing one.

    Args:
        root: the benchmark's folder.
        name: name of the corpus in the manifest; its folders are the first parts of the written paths.
        write: writes the corpus and returns further entries of the record (tasks, sources, synthetic).
        variant: the size, ``full`` or ``tiny``.

    Returns:
        The record: `files`, `content`, `splits`, `variant` and what `write` returned.

    Raises:
        UserError: if existing files differ from their record, are of another variant, or are in the way.
    """
    place = root / "manifest" / f"{name}.json"
    partial = root / f".{name}.partial"
    if place.is_file():
        record = json.loads(place.read_text(encoding="utf-8"))
        _verify(root, name, record, variant)
        logger.info("%s: exists, checksums are correct.", name)
        return record
    done = partial / "record.json"
    if not done.is_file():
        shutil.rmtree(partial, ignore_errors=True)  # from an interrupted run; only this program writes there
        partial.mkdir(parents=True)
        writer = CorpusWriter(partial)
        record = write(writer) | {
            "variant": variant,
            "content": writer.content(),
            "splits": writer.splits,
            "files": dict(sorted(writer.files.items())),
        }
        _refuse_folders_in_the_way(root, record)
        write_text(done, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    record = json.loads(done.read_text(encoding="utf-8"))
    for folder in _folders(record):
        if (partial / folder).exists():  # already moved if a run was interrupted right here
            (partial / folder).rename(root / folder)
    place.parent.mkdir(exist_ok=True)
    done.rename(place)
    shutil.rmtree(partial)
    logger.info("%s: written, %d files.", name, len(record["files"]))
    return record


def _verify(root: Path, name: str, record: Record, variant: str) -> None:
    if record["variant"] != variant:
        raise UserError(
            f"{root}: {name} was made in the variant {record['variant']!r}, but this is {variant!r}. Give another "
            "--output."
        )
    bad = [path for path, digest in record["files"].items() if not _holds(root / path, digest)]
    if bad:
        raise UserError(
            f"{root}: {len(bad)} of {len(record['files'])} files of {name} are missing or differ from their checksum "
            f"(first {', '.join(bad[:3])}). Remove {', '.join(_folders(record))} and manifest/{name}.json there to "
            "have them made again."
        )


def _refuse_folders_in_the_way(root: Path, record: Record) -> None:
    for folder in _folders(record):
        if (root / folder).exists():
            raise UserError(
                f"{root / folder}: exists already, but was not made here (no record of it in {root / 'manifest'}). "
                "Move it away, or give another --output."
            )


def _folders(record: Record) -> list[str]:
    return sorted({path.partition("/")[0] for path in record["files"]})


def _holds(path: Path, digest: str) -> bool:
    return path.is_file() and _sha256(path) == digest


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
