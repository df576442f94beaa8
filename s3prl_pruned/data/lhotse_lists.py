"""Read lhotse's manifests and Shar folders from their JSON; lhotse itself is not needed."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s3prl_pruned.config import UserError
from s3prl_pruned.data.manifest import AUDIO_SUFFIXES, Utterance
from s3prl_pruned.data.text import listed_path, read_lines
from s3prl_pruned.data.waveforms import SAMPLE_RATE

_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
"""What JSON of an unexpected form can raise."""


def is_shar(folder: Path) -> bool:
    """Whether a folder is one of lhotse's Shar folders."""
    return any(folder.glob("cuts.*.jsonl*"))


def read_cuts(path: Path, lines: list[tuple[int, str]], audio_root: str | Path | None) -> Iterator[Utterance]:
    """Read a CutSet of MonoCuts, or a RecordingSet; each utterance is a whole file or a piece of one.

    Args:
        path: the manifest.
        lines: its lines with their numbers.
        audio_root: folder that relative paths start from; None for the working directory.

    Raises:
        UserError: a line is malformed, or is neither a MonoCut nor a recording.
    """
    for number, line in lines:
        where = f"{path}: line {number}"
        try:
            yield _cut(json.loads(line), where, Path(audio_root or ""))
        except UserError:
            raise
        except _MALFORMED as error:
            raise UserError(f"{where}: is not a lhotse cut or recording ({error!r}).") from error


def read_shar(folder: Path) -> Iterator[Utterance]:
    """Read a lhotse Shar folder: `cuts.*.jsonl.gz` and `recording.*.tar` with the cuts in the same order.

    Args:
        folder: the Shar folder.

    Raises:
        UserError: an archive is missing or damaged, or does not match its list of cuts.
    """
    for cuts in sorted(folder.glob("cuts.*.jsonl*")):
        archive = folder / f"recording.{cuts.name.split('.')[1]}.tar"
        if not archive.is_file():
            raise UserError(
                f"{cuts}: has no {archive.name} beside it. Write the Shar with fields={{'recording': 'flac'}}."
            )
        try:
            with tarfile.open(archive, "r:") as tar:
                audio = [member for member in tar if member.name.endswith(AUDIO_SUFFIXES)]
        except (tarfile.TarError, OSError) as error:
            raise UserError(f"{archive}: is not a complete, uncompressed tar ({error}). Copy it again.") from error
        entries = [_shar_entry(line, f"{cuts}: line {number}") for number, line in read_lines(cuts)]
        names = [Path(member.name).stem for member in audio]
        if [name for name, _ in entries] != names:
            raise UserError(
                f"{archive}: holds {len(names)} files that are not the {len(entries)} cuts of {cuts.name}. "
                "Write both again."
            )
        for (name, length), member in zip(entries, audio, strict=True):
            yield Utterance(name, archive, length, span=(member.offset_data, member.size))


def _shar_entry(line: str, where: str) -> tuple[str, int]:
    try:
        data = json.loads(line)
        return str(data["id"]), _length(float(data["duration"]))
    except _MALFORMED as error:
        raise UserError(f"{where}: is not a lhotse cut ({error!r}).") from error


def _cut(data: Any, where: str, root: Path) -> Utterance:
    recording = data.get("recording", data if "sources" in data else None)
    if recording is None or data.get("type", "MonoCut") != "MonoCut":
        raise UserError(
            f"{where}: must be a lhotse MonoCut or Recording, but is {data.get('type', 'something else')!r}."
        )
    place = root / listed_path(_file(recording, where), root)
    piece = None
    if recording is not data:
        piece = (float(data["start"]), float(data["duration"]))
        piece = None if piece == (0.0, float(recording["duration"])) else piece
    if piece and piece[0] < 0:
        raise ValueError(f"it starts at {piece[0]} s")
    duration = piece[1] if piece else recording["num_samples"] / recording["sampling_rate"]
    return Utterance(str(data["id"]), place, _length(duration), seconds=piece)


def _length(seconds: float) -> int:
    """Samples at 16 kHz."""
    if not 0 < seconds < 2**40:
        raise ValueError(f"it lasts {seconds} s")
    return round(seconds * SAMPLE_RATE)


def _file(recording: dict, where: str) -> str:
    sources = recording["sources"]
    if len(sources) != 1 or sources[0]["type"] != "file":
        kinds = [source["type"] for source in sources]
        raise UserError(
            f"{where}: must have one source of the type 'file', but has {kinds}. Save the audio to files first."
        )
    if len(recording.get("channel_ids") or [0]) > 1:
        raise UserError(f"{where}: must be mono, but has channels {recording['channel_ids']}. Save it as mono first.")
    others = [t["name"] for t in recording.get("transforms") or [] if t["name"] != "Resample"]  # we resample ourselves
    if others:
        raise UserError(f"{where}: transforms {others} are not applied here. Save the transformed audio first.")
    return sources[0]["source"]
