"""The files of a large corpus, looked at once: a later start reads what was found, and looks at a few of them.

VoxCeleb1 has 153,516 files in 1,251 folders of speakers. What is kept depends on the list and on the time at which each
of those folders last changed; a file that was replaced below one of them, and is none of the few, is not noticed.
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
"""Files whose size is looked at again in every start."""


@dataclass(kw_only=True)
class KnownFiles:
    """The files of a split."""

    key: str
    """The split's name."""
    root: str
    """The folder below the corpus that ``names`` begin at; empty for the corpus itself."""
    names: list[str]
    sha256: str
    """As `corpora.digest` gives it."""


@dataclass(kw_only=True)
class _Kept:
    splits: list[KnownFiles]
    sampled: list[str]
    """Some files, below the corpus."""
    sizes: list[int]
    """Of these."""


def known_files(
    kind: str,
    corpus: Path,
    folders: tuple[str, ...],
    *,
    listing: str,
    find: Callable[[], dict[str, tuple[str, list[str]]]],
) -> dict[str, KnownFiles]:
    """The files of each split.

    Args:
        kind: of the cache.
        corpus: its folder.
        folders: below it; when one of those in them changes, files are looked for again.
        listing: the text that names the files.
        find: looks for them: root and names of each split, all of which are there.

    Raises:
        UserError: as ``find`` does.
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
    except UserError:  # half written, or of another version: files are looked for again
        return None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
