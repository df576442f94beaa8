"""SID: s3prl's ``voxceleb1`` on VoxCeleb1, 1,251 speakers."""

from __future__ import annotations

import argparse
import pickle
import re
from pathlib import Path
from typing import Any, ClassVar

from s3prl_pruned.compat import experts
from s3prl_pruned.config import UserError
from s3prl_pruned.superb.results.result import SplitRead
from s3prl_pruned.superb.tasks import corpora
from s3prl_pruned.superb.tasks.driver import DownstreamRun, Driver
from s3prl_pruned.superb.tasks.drivers.classification import Classification
from s3prl_pruned.superb.tasks.known_files import known_files

LISTS = ("iden_split.txt", "veri_test_class.txt")
"""VoxCeleb1's own list of the identification task, ``1 id10001/1zcIwhmdeo4/00001.wav``, and s3prl's name of it."""

LISTS_SOURCE = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta"
FOLDERS = ("dev/wav", "test/wav")
"""Folders of VoxCeleb1, with a subfolder for each speaker."""

SPLITS = {"1": "train", "2": "dev", "3": "test"}
FIRST_SPEAKER, NUM_SPEAKERS = 10001, 1251


class SpeakerIdentification(Classification):
    """Every file of VoxCeleb1's list is searched for below ``dev/wav`` and ``test/wav``.

    s3prl does so too, but caches the result beside its code, whatever the corpus. Here the search is a single pass, and
    its result is cached by corpus and list.
    """

    optional_settings = ("datarc.meta_data",)
    official_sizes: ClassVar[dict[str, int]] = {"train": 138_361, "dev": 6_904, "test": 8_251}

    def random_waveforms(self, config: dict[str, Any]) -> str | None:
        """Utterances are cropped if the settings say so."""
        return random_crops(config)

    def prepare(
        self, args: argparse.Namespace, config: dict[str, Any], *, corpus: Path, s3prl_root: Path | None
    ) -> list[SplitRead]:
        """Find every file of the list and write s3prl's own lists of them."""
        self.check_split(args.evaluate_split)
        datarc = config["downstream_expert"]["datarc"]
        named = datarc.get("meta_data")
        listing = find_list(
            self, LISTS, corpus=corpus, s3prl_root=s3prl_root, named=named, of="the identification task"
        )
        text = listing.read_text(encoding="utf-8")
        found = known_files(
            "voxceleb1", corpus, FOLDERS, listing=text, find=lambda: _find_files(corpus, _read_list(listing), listing)
        )
        files = {key: known.names for key, known in found.items()}
        read = [
            SplitRead(key=key, folder=key, num_utterances=len(known.names), sha256=known.sha256)
            for key, known in found.items()
        ]
        folder = corpora.splits_folder("voxceleb1", corpus, read)
        paths = (corpus / name for names in files.values() for name in names)
        corpora.check_audio_once(paths, cache=folder, why="s3prl reads it as such")
        for key, names in files.items():
            # Written each time: s3prl unpickles these files, so they must be ours.
            content = pickle.dumps([str(corpus / name) for name in names])
            corpora.write_once(folder / f"{key}.pkl", content, afresh=True)
        datarc["file_path"] = str(corpus)
        datarc["meta_data"] = str(corpora.write_once(folder / LISTS[0], text))
        return read

    def adapt(self, run: DownstreamRun) -> None:
        """Let s3prl read the lists from the cache."""
        experts.keep_voxceleb1_lists_in(Path(run.config["downstream_expert"]["datarc"]["meta_data"]).parent)


def find_list(
    driver: Driver, names: tuple[str, str], *, corpus: Path, s3prl_root: Path | None, named: str | None, of: str
) -> Path:
    """Find a list of VoxCeleb1, whose folder must have the layout that both tasks read.

    Args:
        driver: the task's driver.
        names: the list's names, VoxCeleb1's own and s3prl's.
        corpus: the folder of VoxCeleb1.
        s3prl_root: a checkout of s3prl, or None.
        named: path in the settings.
        of: what the list is for.

    Raises:
        UserError: if the folder has another layout, or there is no list.
    """
    corpora.require(corpus, ["dev/wav/", "test/wav/"], layout=f"the folder of {driver.task.corpus}")
    return corpora.find_listing(
        corpus,
        names,
        s3prl_root=s3prl_root,
        s3prl_file=f"downstream/{driver.task.downstream}/{names[1]}",
        named=named,
        what=f"VoxCeleb1's list of {of}",
        source=f"{LISTS_SOURCE}/{names[0]}",
    )


def random_crops(config: dict[str, Any]) -> str | None:
    """`Driver.random_waveforms` of both tasks on VoxCeleb1: s3prl crops where `max_timestep` is not null."""
    cropped = config["downstream_expert"]["datarc"].get("max_timestep") is not None
    return "crops training utterances at random (datarc.max_timestep)" if cropped else None


def _read_list(path: Path) -> dict[str, list[str]]:
    """Names of files by split.

    Raises:
        UserError: on a line of another form, or a speaker that is not one of VoxCeleb1's.
    """
    names: dict[str, list[str]] = {key: [] for key in SPLITS.values()}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        match = re.fullmatch(r"([123])\s+(id(\d{5})/[^/\s]+/[^/\s]+)\s*", line)
        if not match or not 0 <= int(match[3]) - FIRST_SPEAKER < NUM_SPEAKERS:
            raise UserError(
                f"{path}, line {number}: must be `<1, 2 or 3> "
                f"id<{FIRST_SPEAKER} to {FIRST_SPEAKER + NUM_SPEAKERS - 1}>/<video>/<file>`, but is {line!r}."
            )
        names[SPLITS[match[1]]].append(match[2])
    for key, found in names.items():
        if not found:
            raise UserError(f"{path}: must hold files of the {key} split, but holds none.")
    return names


def _find_files(corpus: Path, names: dict[str, list[str]], listing: Path) -> dict[str, tuple[str, list[str]]]:
    """The files' paths relative to the corpus: below ``dev/wav`` or ``test/wav``."""
    tops: dict[str, list[str]] = {}
    for folder in FOLDERS:
        for speaker in (corpus / folder).iterdir():
            tops.setdefault(speaker.name, []).append(folder)

    def place(name: Path) -> str | None:
        found = (top for top in tops.get(name.parts[0], ()) if (corpus / top / name).is_file())
        return next((f"{top}/{name.as_posix()}" for top in found), None)

    listed = [Path(name) for of_split in names.values() for name in of_split]
    places = dict(zip(listed, corpora.map_files(listed, place, what=f"files of {listing.name}"), strict=True))
    missing = [name.as_posix() for name in listed if places[name] is None]
    if missing:
        raise UserError(
            f"{corpus}: must hold every file of {listing.name} below dev/wav or test/wav, but {len(missing)} are "
            f"missing (first {', '.join(missing[:3])})."
        )
    return {key: ("", [str(places[Path(name)]) for name in of_split]) for key, of_split in names.items()}
