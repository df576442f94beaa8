"""What s3prl's ``asr`` needs besides a corpus in LibriSpeech's layout, and its package lacks.

- ``char.dict``: the letters, in fairseq's dictionary format (``SYMBOL COUNT`` per line);
- ``len_for_bucket/<split>.csv``: each file's length, by which utterances are batched.

s3prl silently drops audio without a transcript and a last batch of one, and adds letters outside the dictionary after
the output layer was made. All of these would change the metric, so here they are errors before anything runs. PR reads
its corpus with this module too.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.compat import audio
from s3prl_pruned.config import UserError
from s3prl_pruned.data.corpus import read_transcripts
from s3prl_pruned.data.listing import AUDIO_SUFFIXES, files_at_depth
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.superb.tasks.corpora import cache_folder, write_once

LETTERS = "|ETAONIHSRDLUMCWFGYPBVK'XJQZ"
"""Word boundary and letters by their frequency in LibriSpeech, in the order of the public letter
dictionaries for it, so that downstream checkpoints made with those fit."""

OFFICIAL_SIZES = {"train-clean-100": 28539, "dev-clean": 2703, "test-clean": 2620}
"""Number of utterances in the splits of LibriSpeech that SUPERB uses (openslr.org/12)."""


@dataclass(frozen=True, kw_only=True)
class TranscribedSplit:
    """A checked split: one folder of the corpus."""

    name: str
    audio: tuple[str, ...]
    """Paths below the corpus, sorted: ``<split>/<speaker>/<chapter>/<id>.<suffix>``."""
    transcripts: dict[str, str]
    """Words by utterance id, which is the file's stem."""
    stamp: str
    """SHA-256 of the files' names and sizes and of the transcripts."""


def write_dictionary(path: Path) -> None:
    """Write the letters in fairseq's dictionary format. Counts serve only for sorting; all are 1."""
    path.write_text("".join(f"{letter} 1\n" for letter in LETTERS), encoding="utf-8")


def read_split(root: Path, name: str) -> TranscribedSplit:
    """List one split and check that every utterance will count in the metric.

    Args:
        root: the corpus.
        name: the folder, such as ``train-clean-100``.

    Raises:
        UserError: if the folder is missing or empty, or an utterance has no transcript, no audio,
            an id that occurs twice, or a letter that the dictionary lacks.
    """
    folder = root / name
    if not folder.is_dir():
        there = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        raise UserError(
            f"{root}: must hold the folder {name!r} of LibriSpeech's layout, but holds "
            f"{', '.join(there) or 'no folders'}. Give the folder that holds the splits by --corpus, or "
            "name other splits by -o config.downstream_expert.datarc.train=[...]."
        )
    files = files_at_depth(folder, 3)
    if not files:
        raise UserError(
            f"{folder}: must hold <speaker>/<chapter>/<speaker>-<chapter>-<utterance> with one of "
            f"{', '.join(AUDIO_SUFFIXES)}, but holds no such file."
        )
    transcripts = _read_transcripts(folder)
    ids = [file.stem for file in files]
    _refuse_unpaired(folder, ids, transcripts)
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(f"{file.relative_to(root).as_posix()} {file.stat().st_size}\n"))
        digest.update(f"{transcripts[file.stem]}\n".encode())
    return TranscribedSplit(
        name=name,
        audio=tuple(file.relative_to(root).as_posix() for file in files),
        transcripts=transcripts,
        stamp=digest.hexdigest(),
    )


def write_bucket_lengths(root: Path, splits: list[TranscribedSplit]) -> Path:
    """Write ``<split>.csv`` with columns file_path, length (samples), label, as s3prl reads them.

    They are cached by the corpus's path and content, and made again if either changes.

    Args:
        root: the corpus.
        splits: the splits that a run reads.

    Returns:
        The folder, for ``datarc.bucket_file``.

    Raises:
        UserError: if a file cannot be decoded or is not 16 kHz mono (s3prl would stop or, with two channels,
            concatenate them), or the folder cannot be written.
    """
    key = " ".join([str(root.resolve()), *(f"{split.name}:{split.stamp}" for split in splits)])
    folder = cache_folder("len_for_bucket", key)
    for split in splits:
        path = folder / f"{split.name}.csv"
        if not path.is_file():
            rows = [(name, _num_samples(root / name), "") for name in split.audio]
            table = io.StringIO()
            csv.writer(table).writerows([("file_path", "length", "label"), *rows])
            write_once(path, table.getvalue())
    return folder


def plain_transcripts(path: str) -> str:
    """The text of a ``*.trans.txt`` for s3prl, without blank lines."""
    return "".join(f"{key} {text}\n" for key, text in read_transcripts(Path(path)))


def refuse_lost_utterances(num_utterances: int, batch_size: int, where: str) -> None:
    """Refuse a last batch of one utterance: s3prl's ``asr`` drops it, and a test metric would lack it.

    Raises:
        UserError: if there would be one.
    """
    if batch_size > 1 and num_utterances % batch_size == 1:
        raise UserError(
            f"{where}: eval_batch_size {batch_size} leaves one of {num_utterances} utterances for the last "
            "batch, which s3prl would drop from the metric. Set "
            "config.downstream_expert.datarc.eval_batch_size=1."
        )


def _read_transcripts(folder: Path) -> dict[str, str]:
    """Text by utterance id, from every ``*.trans.txt`` below the folder."""
    texts: dict[str, str] = {}
    for listing in files_at_depth(folder, 3, (".trans.txt",)):
        expected = "-".join(listing.relative_to(folder).parts[:2]) + ".trans.txt"
        if listing.name != expected:
            raise UserError(f"{listing}: must be named {expected}, which s3prl looks for.")
        for key, text in read_transcripts(listing):
            if key in texts:
                raise UserError(f"{listing}: the id {key} must occur once in {folder.name}, but occurs twice.")
            texts[key] = " ".join(text.split())
            unknown = sorted(set(texts[key].upper().replace(" ", "|")) - set(LETTERS))
            if unknown or not texts[key]:
                found = f"holds {' '.join(map(repr, unknown))}" if text else "is empty"
                raise UserError(
                    f"{listing}: a transcript must be letters A to Z, ' and spaces, but {key}'s {found}. "
                    "Write numbers and signs out as words."
                )
    return texts


def _refuse_unpaired(folder: Path, ids: list[str], transcripts: dict[str, str]) -> None:
    twice = sorted({key for key in ids if ids.count(key) > 1}) if len(set(ids)) < len(ids) else []
    silent = sorted(set(ids) - transcripts.keys())
    unheard = sorted(transcripts.keys() - set(ids))
    for problem, keys in (
        ("have two audio files", twice),
        ("have no line in <speaker>-<chapter>.trans.txt", silent),
        ("have a transcript but no audio file", unheard),
    ):
        if keys:
            raise UserError(
                f"{folder}: every utterance must have one audio file and one transcript, but {len(keys)} "
                f"{problem} (first {', '.join(keys[:3])}). s3prl would leave them out silently."
            )


def _num_samples(path: Path) -> int:
    found = audio.info(path)
    if (found.sample_rate, found.num_channels) != (SAMPLE_RATE, 1):
        raise UserError(
            f"{path}: s3prl's asr takes {SAMPLE_RATE} Hz mono only, but this has {found.sample_rate} Hz and "
            f"{found.num_channels} channel(s). Convert the corpus first."
        )
    return found.num_frames
