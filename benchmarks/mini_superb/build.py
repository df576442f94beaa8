"""Makes MINI-SUPERB: all corpora, their checksums, the paths for run_downstream.py, and the README."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from benchmarks.mini_superb.fluent import write_fluent
from benchmarks.mini_superb.iemocap import write_iemocap
from benchmarks.mini_superb.libri2mix import write_libri2mix, write_wav_scp
from benchmarks.mini_superb.librispeech import write_librispeech
from benchmarks.mini_superb.quesst import write_quesst
from benchmarks.mini_superb.snips import write_snips
from benchmarks.mini_superb.sources import Sources
from benchmarks.mini_superb.speech_commands import write_speech_commands
from benchmarks.mini_superb.voxceleb import write_voxceleb
from benchmarks.mini_superb.writer import Record, make_corpus
from s3prl_pruned.checkpoint import write_text
from s3prl_pruned.config import UserError
from s3prl_pruned.tables import Bold, Column, Table

logger = logging.getLogger(__name__)

CORPORA: dict[str, tuple[tuple[str, ...], Callable[..., Record]]] = {
    "LibriSpeech": (("asr", "pr"), write_librispeech),
    "speech_commands": (("ks",), write_speech_commands),
    "VoxCeleb1": (("sid", "sv"), write_voxceleb),
    "fluent_speech_commands_dataset": (("ic",), write_fluent),
    "IEMOCAP": (("er",), write_iemocap),
    "SNIPS": (("sf",), write_snips),
    "quesst14Database": (("qbe",), write_quesst),
    "Libri2Mix": (("sd",), write_libri2mix),
}
"""By name in the manifest: a corpus's tasks and the function that writes it, in the order of making."""

PATHS = {
    "asr": "LibriSpeech",
    "pr": "LibriSpeech",
    "ks": ".",
    "sid": "VoxCeleb1",
    "sv": "VoxCeleb1",
    "ic": "fluent_speech_commands_dataset",
    "er": "IEMOCAP",
    "sf": "SNIPS",
    "qbe": "quesst14Database",
    "sd": "Libri2Mix/data",
}
"""The folder for ``run_downstream.py --corpus`` of each task, below the benchmark's folder."""


def make_mini_superb(
    root: Path,
    *,
    tasks: Collection[str] | None = None,
    tiny: bool = False,
    sources: Sources | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Record]:
    """Make the benchmark below ``root``; existing corpora are verified and reused.

    Args:
        root: the folder; Debian's packages are kept in ``root/packages`` unless ``sources`` says otherwise.
        tasks: short names; None: all ten. A corpus that serves two tasks is made if either is named.
        tiny: a few utterances per split, to try the programs, not for results.
        sources: sources of speech, if not the embedded corpus and Debian.
        progress: gets one line for each corpus.

    Returns:
        The record of each corpus by its name.

    Raises:
        UserError: if a task does not exist, a source cannot be fetched, or existing files in ``root`` differ.
    """
    unknown = sorted(set(tasks or ()) - set(PATHS))
    if unknown:
        raise UserError(f"the tasks must be among {' '.join(PATHS)}, but {' '.join(unknown)} are not.")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{root}: the output must be a folder that can be made ({error.strerror}).") from error
    sources = sources or Sources(root / "packages")
    variant = "tiny" if tiny else "full"
    wanted = [name for name, (serves, _) in CORPORA.items() if tasks is None or set(serves) & set(tasks)]
    for number, name in enumerate(wanted, start=1):
        serves, write = CORPORA[name]
        record = make_corpus(root, name, partial(write, sources=sources, tiny=tiny), variant=variant)
        same = _same_as_reference(name, record)
        progress(
            f"[{number}/{len(wanted)}] {name} ({', '.join(serves)}): {_minutes(record):.1f} min, {_SAMENESS[same]}"
        )
    if (root / "Libri2Mix").is_dir():
        write_wav_scp(root)
    records = {name: _read(root, name) for name in CORPORA if (root / "manifest" / f"{name}.json").is_file()}
    write_text(root / "README.md", _readme(records, variant))
    paths = {task: path for task, path in PATHS.items() if (root / path).is_dir()}
    write_text(root / "paths.yaml", yaml.safe_dump(paths, sort_keys=False))
    checksums = [f"{digest}  {path}\n" for record in records.values() for path, digest in record["files"].items()]
    write_text(root / "checksums.txt", "".join(checksums))
    return records


def reference_contents() -> dict[str, dict[str, str]]:
    """The ``content`` of each corpus by variant, as made with Debian 12's packages."""
    text = resources.files(__package__).joinpath("reference.json").read_text(encoding="utf-8")
    return json.loads(text)


_SAMENESS = {
    True: "content as in the reference",
    False: "content DIFFERS from the reference: other versions of packages, numbers do not compare",
    None: "no reference",
}


def _same_as_reference(name: str, record: Record) -> bool | None:
    expected = reference_contents().get(record["variant"], {}).get(name)
    return None if expected is None else expected == record["content"]


def _read(root: Path, name: str) -> Record:
    return json.loads((root / "manifest" / f"{name}.json").read_text(encoding="utf-8"))


def _minutes(record: Record) -> float:
    return sum(entry["seconds"] for entry in record["splits"].values()) / 60


def _readme(records: dict[str, Record], variant: str) -> str:
    notes = [f"- {name}: {record['note']}\n" for name, record in records.items() if "note" in record]
    sources = {source["package"]: source for record in records.values() for source in record["sources"]}
    return _README.format(
        variant="" if variant == "full" else " This is the tiny variant: for trying the machinery, not for numbers.\n",
        corpora=Table(
            ["task", "corpus", "speech", "minutes", "utterances of each split", "sources", "content"],
            [_row(name, record) for name, record in records.items()],
        ).markdown(),
        notes="".join(notes),
        sources=Table(
            [
                Column("package", "source"),
                Column("version", absent=""),
                "licence",
                Column("sha256", "SHA-256 of the package", show="{:.16}", absent=""),
            ],
            [source for _, source in sorted(sources.items())],
        ).markdown(),
    )


def _row(name: str, record: dict[str, Any]) -> list[object]:
    splits = "; ".join(
        f"{split} {entry['utterances']} ({entry['seconds'] / 60:.1f} min, {_voices(len(entry['speakers']))})"
        for split, entry in record["splits"].items()
    )
    packages = ", ".join(source["package"] for source in record["sources"])
    kind = Bold("synthetic") if record["synthetic"] else "real"
    same = {True: "as the reference", False: "differs", None: "no reference"}[_same_as_reference(name, record)]
    content = f"`{record['content'][:12]}` {same}"
    return [", ".join(record["tasks"]).upper(), name, kind, f"{_minutes(record):.1f}", splits, packages, content]


def _voices(count: int) -> str:
    return "no voice" if not count else f"{count} voice{'s' * (count > 1)}"


_README = """# MINI-SUPERB

A small, fixed benchmark of SUPERB's ten tasks, made by `benchmarks/mini_superb` of s3prl_pruned from Debian's
packages, in the official corpora's layouts. Its numbers are mini numbers: they compare models with each other on it,
and with no published row.
{variant}
{corpora}

{notes}
`paths.yaml` has what `run_downstream.py --corpus` takes for each task. `sha256sum --quiet -c checksums.txt` verifies
the files; `content` is a SHA-256 over all paths, samples and texts, equal on every machine that made the same corpus.

{sources}

The audio stays under the licences of its sources, which are those of the packages' copyright files.
"""
