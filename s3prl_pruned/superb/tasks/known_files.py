"""The files of a large corpus are checked once: a later start reads the result, and checks a few files again.

VoxCeleb1 has 153,516 files in 1,251 folders of speakers. The cached result is valid for one list and for the times at
which those folders last changed; a replaced file in a deeper folder goes unnoticed unless it is one of the few.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.superb.results.result import read_json
from s3prl_pruned.superb.tasks import corpora

SAMPLED = 64
"""Number of files whose size is checked again at every start."""


@dataclass(kw_only=True)
class KnownFiles:
    """The files of a split."""

    key: str
    """The split's name."""
    root: str
    """The folder below the corpus to which ``names`` are relative; empty for the corpus itself."""
    names: list[str]
    sha256: str
    """SHA-256 as `corpora.digest` computes it."""


@dataclass(kw_only=True)
class _Kept:
    splits: list[KnownFiles]
    sampled: list[str]
    """Some files, as paths below the corpus."""
    sizes: list[int]
    """Sizes of these files in bytes."""


def known_files(
    kind: str,
    corpus: Path,
    folders: tuple[str, ...],
    *,
    listing: str,
    find: Callable[[], dict[str, tuple[str, list[str]]]],
) -> dict[str, KnownFiles]:
    """The files of each split, from the cache if nothing changed.

    Args:
        kind: kind of the cache folder.
        corpus: the corpus's folder.
        folders: folders below it; when one of their subfolders changes, the files are searched for again.
        listing: the text of the list that names the files.
        find: searches for the files: returns root and names of each split, after checking that all exist.

    Raises:
        UserError: as raised by ``find``.
    """
    state = hashlib.sha256(listing.encode())
    for folder in folders:
        for entry in sorted(os.scandir(corpus / folder), key=lambda entry: entry.name):
            state.update(f"{folder}/{entry.name} {entry.stat().st_mtime_ns}\n".encode())
    path = corpora.cache_folder(f"{kind}_files", f"{corpus.resolve()} {state.hexdigest()}") / "files.json"
    kept = _read(path)
    if kept is not None and [_size(corpus / name) for name in kept.sampled] == kept.sizes:
        return {files.key: files for files in kept.splits}
    splits = [
        KnownFiles(key=key, root=root, names=names, sha256=corpora.digest(corpus / root, names))
        for key, (root, names) in find().items()
    ]
    names = [str(Path(files.root, name)) for files in splits for name in files.names]
    some = names[:: max(len(names) // SAMPLED, 1)]
    kept = _Kept(splits=splits, sampled=some, sizes=[(corpus / name).stat().st_size for name in some])
    corpora.write_once(path, json.dumps(to_dict(kept)), afresh=True)
    return {files.key: files for files in splits}


def _read(path: Path) -> _Kept | None:
    try:
        return from_dict(_Kept, read_json(path), str(path)) if path.is_file() else None
    except UserError:  # half written, or of another version: the files are searched for again
        return None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
