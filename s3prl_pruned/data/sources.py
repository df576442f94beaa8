"""Open everything that `--corpus` may name: folders of audio, and lists, with which no run has to scan the corpus.

lhotse's formats are read from their JSON, without lhotse: to resume, its samplers replay the order from the start (2 ms
a batch, minutes late in a run), while `RandomCropBatches` computes any batch from its index (LOG.md has the
measurement). A Shar archive is uncompressed, so any of its files can be read by its offset, and batches mix all shards.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from s3prl_pruned.config import UserError
from s3prl_pruned.data.lengths import JOBS, late_bar
from s3prl_pruned.data.lhotse_lists import is_shar, read_cuts, read_shar
from s3prl_pruned.data.listing import is_folder
from s3prl_pruned.data.manifest import OPTION, Utterance, refuse_missing_files, scan_corpus
from s3prl_pruned.data.s3prl_lists import read_table, s3prl_tables
from s3prl_pruned.data.text import read_lines

_FIRST_KEY = '{"num_samples": '


def open_corpus(
    source: str | Path,
    splits: Sequence[str] | None = None,
    *,
    audio_root: str | Path | None = None,
    look_at: int = 200,
    jobs: int = JOBS,
    progress: Callable[..., Iterable] = late_bar,
) -> Sequence[Utterance]:
    """The utterances of a corpus in any supported form.

    Args:
        source: a folder of audio (`scan_corpus`), a folder of s3prl's `len_for_bucket` CSVs or one of them, a lhotse
            Shar folder, a lhotse CutSet or RecordingSet as `.jsonl` or `.jsonl.gz`, or a manifest that
            `tools/prepare_data.py` wrote.
        splits: folders, or CSVs without `.csv`, to use; None uses everything.
        audio_root: what relative paths in CSVs and lhotse manifests are relative to; None: the list's own folder for
            CSVs, the working directory for lhotse (as lhotse does).
        look_at: how many of a list's files to check for; 0 checks all. (Files of a folder are all opened.)
        jobs: number of threads that open files.
        progress: called with an iterator over the results and `total`, such as `tqdm`.

    Raises:
        UserError: `source` is none of these, a line is malformed, or more than 1 % of the files checked are missing.
    """
    source = Path(source)
    _refuse_missing(source)
    found: Sequence[Utterance]
    if source.is_dir() and not is_shar(source):
        tables = s3prl_tables(source)
        if not tables or (splits and not tables.keys() & set(splits) and all(is_folder(source / s) for s in splits)):
            return scan_corpus(source, splits, jobs=jobs, progress=progress)
        chosen = _chosen(source, tables, splits)
        found = [utterance for path in chosen for utterance in read_table(path, audio_root)]
    elif splits:
        raise UserError(
            f"{source}: `sets` {list(splits)} names sub-folders or CSVs, but this has none. Leave it out: {OPTION}."
        )
    elif source.is_dir():
        found = list(read_shar(source))
    elif source.suffix.lower() == ".csv":
        found = list(read_table(source, audio_root))
    elif source.name.endswith((".jsonl", ".jsonl.gz")):
        lines = read_lines(source)
        ours = bool(lines) and '"path"' in lines[0][1] and '"recording"' not in lines[0][1]
        found = Manifest(source, lines) if ours else list(read_cuts(source, lines, audio_root))
    else:
        raise UserError(
            f"{source}: must be a folder, .csv, .jsonl or .jsonl.gz. tools/prepare_data.py makes a manifest."
        )
    if not len(found):
        raise UserError(f"{source}: holds no utterances.")
    refuse_missing_files(found, where=str(source), look_at=look_at, jobs=jobs, progress=progress)
    return found


def sets_in(source: str | Path, sets: Sequence[str] | None, prefix: str) -> list[str] | None:
    """The parts of a corpus that correspond to the sets of a recipe.

    Args:
        source: the corpus.
        sets: the recipe's folders or CSVs; None means everything.
        prefix: what the names of such parts begin with, such as `train`.

    Returns:
        `sets` if the corpus has one of them; else its s3prl CSVs or its folders with this prefix. None if there are
        none, and for a corpus that is a single list. `sets` too if there is no corpus: an error will say so later.
    """
    source = Path(source)
    if not sets or source.is_file() or is_shar(source):
        return None
    if not source.is_dir():
        return list(sets)
    tables = s3prl_tables(source)
    if tables.keys() & set(sets) or any(is_folder(source / name) for name in sets):
        return list(sets)
    folders = [path.name for path in source.iterdir() if is_folder(path)]
    for names in (tables, folders):
        if chosen := sorted(name for name in names if name.startswith(prefix)):
            return chosen
    return None


class Manifest(Sequence[Utterance]):
    """Our manifest, whose lines are parsed on access: one of 300,000 lines opens in a fraction of a second.

    Each line is a JSON object: `num_samples` at 16 kHz, `id`, `path` (absolute, or relative to the manifest's folder),
    and where they apply `seconds` and `span` (see `Utterance`).

    Args:
        path: the manifest.
        lines: its lines with their numbers.

    Attributes:
        lengths: (N,) int64, `num_samples` of every utterance.
    """

    def __init__(self, path: Path, lines: list[tuple[int, str]]):
        self._path, self._lines = path, lines
        self.lengths = np.fromiter(map(self._length, range(len(lines))), np.int64, len(lines))

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Utterance:  # type: ignore[override]  # no slices: nothing asks for them
        data = self._parse(index)
        try:
            return Utterance(
                id=_text(data["id"]),
                path=self._path.parent / _text(data["path"]),
                num_samples=int(self.lengths[index]),
                seconds=_pair(data["seconds"]) if "seconds" in data else None,
                span=_whole_pair(data["span"]) if "span" in data else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._malformed(index, error) from error

    def _length(self, index: int) -> int:
        line = self._lines[index][1]
        try:
            if line.startswith(_FIRST_KEY):  # as we write it: ten times as fast as parsing JSON
                length = int(line[len(_FIRST_KEY) : line.index(",")])
            else:
                length = int(self._parse(index)["num_samples"])
            if not 0 <= length < 2**53:
                raise ValueError(f"num_samples is {length}")
            return length
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise self._malformed(index, error) from error

    def _parse(self, index: int) -> dict:
        try:
            return json.loads(self._lines[index][1])
        except ValueError as error:
            raise self._malformed(index, error) from error

    def _malformed(self, index: int, error: Exception) -> UserError:
        return UserError(
            f"{self._path}: line {self._lines[index][0]} is not an utterance with num_samples, id and path "
            f"({error!r}). Make it again with tools/prepare_data.py."
        )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _pair(value: Any) -> tuple[float, float]:
    first, length = value
    if not (0 <= first < 2**53 and 0 < length < 2**53):
        raise ValueError(f"{value!r} is not a start and a length")
    return first, length


def _whole_pair(value: Any) -> tuple[int, int]:
    first, length = _pair(value)
    return int(first), int(length)


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest atomically. Files below its folder get relative paths, so that both can move together."""
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


def _refuse_missing(source: Path) -> None:
    try:
        source.stat()
    except PermissionError as error:
        raise UserError(f"{source}: may not be read ({error.strerror}). Change its permissions.") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{source}: no such corpus. Give a folder of audio, or a manifest (tools/prepare_data.py)."
        ) from error


def _chosen(folder: Path, tables: dict[str, Path], names: Sequence[str] | None) -> list[Path]:
    missing = [f"{name}.csv" for name in names or () if name not in tables]
    if missing:
        there = sorted(path.name for path in tables.values())
        raise UserError(f"{folder}: has no {missing}. It has: {there}. Name those to take: {OPTION}.")
    return [tables[name] for name in names or tables]
