"""Everything that `--corpus` may name: folders of audio, and lists made once so that a start needs no scan.

What lhotse's formats mean is read here, from their JSON, and lhotse itself is not needed: its samplers replay the
order from the start to resume (2 ms a batch: minutes late in a run), while `RandomCropBatches` computes any batch from
its number (LOG.md has the measurement). A Shar archive is uncompressed, so that any of its files can be read by its
place, and batches mix all shards.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from s3prl_pruned.config import UserError
from s3prl_pruned.data.manifest import AUDIO_SUFFIXES, Utterance, refuse_missing_files, scan_corpus
from s3prl_pruned.data.waveforms import SAMPLE_RATE

_FIRST_KEY = b'{"num_samples": '


def open_corpus(
    source: str | Path, splits: Sequence[str] | None = None, *, audio_root: str | Path | None = None
) -> Sequence[Utterance]:
    """The utterances of a corpus, whichever way it is given.

    Args:
        source: a folder of audio (`scan_corpus`), a folder of s3prl's `len_for_bucket` CSVs or one of them, a lhotse
            Shar folder, a lhotse CutSet or RecordingSet as `.jsonl` or `.jsonl.gz`, or a manifest that
            `tools/prepare_data.py` wrote.
        splits: folders, or CSVs without `.csv`, to take; None takes everything.
        audio_root: what relative paths in CSVs and lhotse manifests are relative to; None: the list's own folder for
            CSVs, the working directory for lhotse (as lhotse does).

    Raises:
        UserError: none of these, malformed (with the line), or more than 1 % of the files looked for are missing.
    """
    source = Path(source)
    if source.is_dir() and not any(source.glob("*.csv")) and not any(source.glob("cuts.*.jsonl*")):
        return scan_corpus(source, splits)
    if not source.exists():
        raise UserError(f"{source}: no such corpus. Give a folder of audio, or a manifest (tools/prepare_data.py).")
    found: Sequence[Utterance]
    if splits and not any(source.glob("*.csv")):
        raise UserError(f"{source}: `sets` {list(splits)} names sub-folders or CSVs, and this has none. Leave it out.")
    if source.is_dir() and any(source.glob("*.csv")):
        found = [utterance for path in _csv_files(source, splits) for utterance in _read_csv(path, audio_root)]
    elif source.is_dir():
        found = list(_read_shar(source))
    elif source.suffix == ".csv":
        found = list(_read_csv(source, audio_root))
    elif source.name.endswith((".jsonl", ".jsonl.gz")):
        lines = _lines(source)
        ours = b'"path"' in lines[0] and b'"recording"' not in lines[0]
        found = Manifest(source, lines) if ours else list(_read_lhotse(source, lines, audio_root))
    else:
        raise UserError(
            f"{source}: must be a folder, .csv, .jsonl or .jsonl.gz. tools/prepare_data.py makes a manifest."
        )
    if not len(found):
        raise UserError(f"{source}: holds no utterance.")
    refuse_missing_files(found, where=str(source))
    return found


class Manifest(Sequence[Utterance]):
    """A manifest of ours, its lines parsed when they are asked for: 300,000 of them open in a fraction of a second.

    One JSON object a line: `num_samples` at 16 kHz, `id`, `path` (absolute, or relative to the manifest's folder), and
    where they apply `seconds` and `span` (`Utterance` says what they mean).

    Attributes:
        lengths: (N,) int64, `num_samples` of every utterance.
    """

    def __init__(self, path: Path, lines: list[bytes]):
        self._path, self._lines = path, lines
        self.lengths = np.fromiter(map(self._length, range(len(lines))), np.int64, len(lines))

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Utterance:  # type: ignore[override]  # no slices: nothing asks for them
        data = self._parse(index)
        try:
            return Utterance(
                id=data["id"],
                path=self._path.parent / data["path"],
                num_samples=data["num_samples"],
                seconds=tuple(data["seconds"]) if "seconds" in data else None,
                span=tuple(data["span"]) if "span" in data else None,
            )
        except (KeyError, TypeError) as error:
            raise self._malformed(index, error) from error

    def _length(self, index: int) -> int:
        line = self._lines[index]
        try:
            if line.startswith(_FIRST_KEY):  # as we write it: ten times as fast as parsing it
                return int(line[len(_FIRST_KEY) : line.index(b",")])
            return int(self._parse(index)["num_samples"])
        except (ValueError, KeyError, TypeError) as error:
            raise self._malformed(index, error) from error

    def _parse(self, index: int) -> dict:
        try:
            return json.loads(self._lines[index])
        except ValueError as error:
            raise self._malformed(index, error) from error

    def _malformed(self, index: int, error: Exception) -> UserError:
        return UserError(
            f"{self._path}: line {index + 1} is no utterance with num_samples, id and path ({error!r}). Make it again "
            "with tools/prepare_data.py."
        )


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest, whole or not at all. Files below its folder get relative paths, so that both can move."""
    path = Path(path)
    folder = path.parent.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with gzip.open(temporary, "wt") if path.name.endswith(".gz") else open(temporary, "w") as file:
        for utterance in utterances:
            place = utterance.path.resolve()
            place = place.relative_to(folder) if place.is_relative_to(folder) else place
            data = {"num_samples": utterance.num_samples, "id": utterance.id, "path": place.as_posix()}
            data |= {key: value for key in ("seconds", "span") if (value := getattr(utterance, key)) is not None}
            file.write(json.dumps(data) + "\n")
    os.replace(temporary, path)


def _lines(path: Path) -> list[bytes]:
    try:
        data = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Copy it again.") from error
    lines = [line for line in data.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path}: holds no utterance.")
    return lines


def _csv_files(folder: Path, splits: Sequence[str] | None) -> list[Path]:
    paths = [folder / f"{name}.csv" for name in splits] if splits else sorted(folder.glob("*.csv"))
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise UserError(f"{folder}: has no {missing}. It has: {sorted(path.name for path in folder.glob('*.csv'))}.")
    return paths


def _read_csv(path: Path, audio_root: str | Path | None) -> Iterator[Utterance]:
    """s3prl's `len_for_bucket`: columns `file_path` and `length` in samples at 16 kHz; others are passed over."""
    root = Path(audio_root) if audio_root else path.parent
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        lacking = {"file_path", "length"} - set(reader.fieldnames or ())
        if lacking:
            raise UserError(f"{path}: s3prl's CSVs have the columns file_path and length; it lacks {sorted(lacking)}.")
        for row in reader:
            try:
                length = int(row["length"])
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"{path}: line {reader.line_num}: `length` must be a whole number, but is {row['length']!r}."
                ) from error
            yield Utterance(Path(row["file_path"]).with_suffix("").as_posix(), root / row["file_path"], length)


def _read_lhotse(path: Path, lines: list[bytes], audio_root: str | Path | None) -> Iterator[Utterance]:
    """A CutSet of MonoCuts, or a RecordingSet: each a whole file or a piece of one."""
    for number, line in enumerate(lines, start=1):
        where = f"{path}: line {number}"
        try:
            data = json.loads(line)
            recording = data.get("recording", data if "sources" in data else None)
            if recording is None or data.get("type", "MonoCut") != "MonoCut":
                raise UserError(
                    f"{where}: must be a lhotse MonoCut or Recording, but is {data.get('type', 'something else')!r}."
                )
            place = Path(audio_root or "") / _lhotse_file(recording, where)
            piece = None
            if recording is not data:
                piece = (float(data["start"]), float(data["duration"]))
                piece = None if piece == (0.0, float(recording["duration"])) else piece
            duration = piece[1] if piece else recording["num_samples"] / recording["sampling_rate"]
            yield Utterance(data["id"], place, round(duration * SAMPLE_RATE), seconds=piece)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{where}: is no lhotse cut or recording ({error!r}).") from error


def _lhotse_file(recording: dict, where: str) -> str:
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


def _read_shar(folder: Path) -> Iterator[Utterance]:
    """A lhotse Shar folder: `cuts.*.jsonl.gz` beside `recording.*.tar`, cut by cut in the same order."""
    for cuts in sorted(folder.glob("cuts.*.jsonl*")):
        archive = folder / f"recording.{cuts.name.split('.')[1]}.tar"
        if not archive.is_file():
            raise UserError(
                f"{cuts}: has no {archive.name} beside it. Write the Shar with fields={{'recording': 'flac'}}."
            )
        try:
            with tarfile.open(archive, "r:") as tar:
                audio = [member for member in tar if member.name.endswith(AUDIO_SUFFIXES)]
        except tarfile.TarError as error:
            raise UserError(f"{archive}: is no uncompressed, whole tar ({error}). Copy it again.") from error
        entries = [json.loads(line) for line in _lines(cuts)]
        names = [Path(member.name).stem for member in audio]
        if [entry.get("id") for entry in entries] != names:
            raise UserError(
                f"{archive}: holds {len(names)} files that are not the {len(entries)} cuts of {cuts.name}. "
                "Write both again."
            )
        for entry, member in zip(entries, audio, strict=True):
            length = round(float(entry["duration"]) * SAMPLE_RATE)
            yield Utterance(entry["id"], archive, length, span=(member.offset_data, member.size))
