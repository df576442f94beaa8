"""The embedded corpus: real recorded speech in LibriSpeech's folder layout.

    embedded/speech/<split>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.ogg
    embedded/speech/<split>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt

``train``, ``dev`` and ``test`` are English and labelled; ``extra`` is for unlabelled training
(French, Russian, and English prompts too long to label). ``prompts.tsv`` lists the recording of
each utterance, ``corpus.json`` the sources and their minutes, ``LICENSE.md`` the attributions.

This module reads the corpus and holds the rules by which texts are normalised and split;
``asterisk.py`` builds it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.data.listing import AUDIO_SUFFIXES, files_at_depth
from s3prl_pruned.data.text import read_lines

LABELLED_SPLITS = ("train", "dev", "test")

ALPHABET = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ")
"""Characters of a normalised English transcript; the same as LibriSpeech's."""

SHARED_RUN = 5
"""Words. Texts that share this many consecutive words, and equal texts, are in the same split."""

LARGEST_HELD_OUT_FAMILY = 4
"""Prompts. Larger families of similar texts stay in ``train``: one would fill most of another split."""

_DIGITS = dict(zip("0123456789", "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split(), strict=True))


@dataclass(frozen=True, kw_only=True)
class LabelledUtterance:
    """One utterance and what is said in it."""

    id: str
    """``<speaker>-<chapter>-<utterance>``."""

    path: Path
    """The audio file."""

    text: str
    """Its transcript, from the ``.trans.txt`` beside it."""


def embedded_corpus() -> Path:
    """Folder of the corpus that comes with the package.

    Raises:
        UserError: the package was installed without it.
    """
    root = Path(__file__).resolve().parents[1] / "embedded" / "speech"
    if not (root / "corpus.json").is_file():
        raise UserError(
            f"{root}: the embedded corpus must be here, but is not. Install the package from a "
            "clone, or run `python -m benchmarks.speech.embedded`."
        )
    return root


def read_split(root: Path, split: str) -> list[LabelledUtterance]:
    """Utterances of one split with their transcripts, in the order of their ids.

    Args:
        root: a corpus in LibriSpeech's layout, such as ``embedded_corpus()``.
        split: name of a folder in ``root``. Audio without a transcript is left out.

    Raises:
        UserError: the split has no transcripts, or a transcript has no audio.
    """
    utterances = []
    for listing in files_at_depth(root / split, 3, (".trans.txt",)):
        for name, text in read_transcripts(listing):
            paths = [listing.parent / f"{name}{suffix}" for suffix in AUDIO_SUFFIXES]
            path = next((path for path in paths if os.path.exists(path)), None)
            if path is None:
                raise UserError(
                    f"{listing}: every transcript must have its audio beside it, but there is no "
                    f"`{name}` with one of {', '.join(AUDIO_SUFFIXES)}."
                )
            utterances.append(LabelledUtterance(id=name, path=path, text=text))
    if not utterances:
        raise UserError(
            f"{root / split}: a labelled split must hold <speaker>/<chapter>/*.trans.txt, but there "
            "are none. Check the folder and the name of the split."
        )
    return sorted(utterances, key=lambda utterance: utterance.id)


def read_transcripts(listing: Path) -> list[tuple[str, str]]:
    """Ids and texts of a ``*.trans.txt``: one ``<id> <text>`` per line; blank lines are skipped.

    Raises:
        UserError: it cannot be read, or is not text in UTF-8 (or UTF-16 with a byte order mark).
    """
    found = []
    for _, line in read_lines(listing):
        name, *text = line.split(maxsplit=1)
        found.append((name, "".join(text).rstrip()))
    return found


def normalize_transcript(text: str) -> str | None:
    """Text as it is spoken, in ``ALPHABET``; None if the spelling leaves that open.

    Remarks in brackets are dropped, the keys ``#`` and ``*`` and single digits become words, and
    punctuation becomes a space. Longer numbers can be read in several ways: None.

    >>> normalize_transcript("Press 1 for... (pause)")
    'PRESS ONE FOR'
    >>> normalize_transcript("Dial 500.") is None
    True
    """
    text = re.sub(r"\[.*?\]|\(.*?\)|<.*?>", " ", text).upper()
    text = text.replace("#", " POUND ").replace("*", " STAR ")
    text = re.sub(r"(?<!\w)\d(?!\w)", lambda digit: _DIGITS[digit[0]], text)
    text = re.sub(r"[-.,:;!?\"]", " ", text)
    words = text.split()
    if not words or not ALPHABET.issuperset("".join(words)):
        return None
    return " ".join(words)


def text_families(texts: Mapping[str, str]) -> list[list[str]]:
    """Group prompts whose normalised texts are equal or share a run of ``SHARED_RUN`` words.

    Args:
        texts: normalised text of each prompt.

    Returns:
        Families of prompt names, transitively closed; both levels sorted.
    """
    parent = {name: name for name in texts}

    def representative(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    first_with: dict[tuple[str, ...], str] = {}
    for name in sorted(texts):
        for run in _runs(texts[name]):
            parent[representative(name)] = representative(first_with.setdefault(run, name))
    families = defaultdict(list)
    for name in sorted(texts):
        families[representative(name)].append(name)
    return sorted(families.values())


def _runs(text: str) -> set[tuple[str, ...]]:
    """The whole text and every run of ``SHARED_RUN`` words in it."""
    words = tuple(text.split())
    runs = {words[i : i + SHARED_RUN] for i in range(len(words) - SHARED_RUN + 1)}
    return runs | {words}


def assign_splits(texts: Mapping[str, str], *, seed: int, keep_in_train: Collection[str] = ()) -> dict[str, str]:
    """Assign prompts to ``train``, ``dev`` and ``test``, about 8 : 1 : 1, by families of text.

    Families are ordered by the length of their text; of every ten neighbours, one goes to ``dev``
    and one to ``test``, so that both have short and long prompts. A hash of text and seed decides
    which ones, so the result is the same in every version of Python.

    Args:
        texts: normalised text of each prompt.
        seed: another seed gives other splits.
        keep_in_train: prompts whose whole family must not be held out.
    """
    families = text_families(texts)
    splits = {name: "train" for family in families for name in family}
    free = [
        family for family in families if len(family) <= LARGEST_HELD_OUT_FAMILY and not set(family) & set(keep_in_train)
    ]
    free.sort(key=lambda family: (sum(len(texts[name]) for name in family), family))
    for start in range(0, len(free), 10):
        block = sorted(free[start : start + 10], key=lambda family: _rank(texts[family[0]], seed))
        for split, family in zip(("dev", "test"), block, strict=False):
            splits.update(dict.fromkeys(family, split))
    return splits


def _rank(text: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {text}".encode()).hexdigest()
