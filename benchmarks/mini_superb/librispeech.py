"""ASR and PR: the embedded English prompts in LibriSpeech's layout, with a lexicon for s3prl's libriphone."""

from __future__ import annotations

from benchmarks.mini_superb.clips import generator
from benchmarks.mini_superb.sources import Sources
from benchmarks.mini_superb.writer import CorpusWriter, Record
from benchmarks.speech.debian_speech import read_pcm
from s3prl_pruned.config import UserError
from s3prl_pruned.data.corpus import LabelledUtterance

FOLDERS = {"train": "train-clean-100", "dev": "dev-clean", "test": "test-clean"}
TINY = {"train": 12, "dev": 4, "test": 4}
"""Utterances of each split in the tiny variant."""

PRONUNCIATIONS = {
    "BACKTICK": "B AE1 K T IH2 K",
    "CARET": "K EH1 R AH0 T",
    "DAHDI": "D AA1 D IY0",
    "DIGIUM": "D IH1 JH IY0 AH0 M",
    "IVR": "AY2 V IY2 AA1 R",
    "LOWERCASE": "L OW1 ER0 K EY2 S",
    "MGCP": "EH2 M JH IY2 S IY2 P IY1",
    "PBX": "P IY2 B IY2 EH1 K S",
    "PREPEND": "P R IY2 P EH1 N D",
    "PREPENDING": "P R IY2 P EH1 N D IH0 NG",
    "RERECORD": "R IY2 R IH0 K AO1 R D",
    "SEMICOLON": "S EH1 M IY0 K OW2 L AH0 N",
    "TOUCHTONE": "T AH1 CH T OW2 N",
    "UNDELETE": "AH2 N D IH0 L IY1 T",
    "UNDELETED": "AH2 N D IH0 L IY1 T IH0 D",
    "UNISTIM": "Y UW1 N IH0 S T IH2 M",
    "UNMUTE": "AH2 N M Y UW1 T",
    "UNMUTED": "AH2 N M Y UW1 T IH0 D",
    "UPPERCASE": "AH1 P ER0 K EY2 S",
    "WWW": "D AH1 B AH0 L Y UW2 D AH1 B AH0 L Y UW2 D AH1 B AH0 L Y UW2",
    "XRAY": "EH1 K S R EY2",
}
"""Words of the prompts that CMUdict lacks, in its alphabet."""


def write_librispeech(writer: CorpusWriter, sources: Sources, *, tiny: bool) -> Record:
    """Write ``LibriSpeech/``: the three splits that SUPERB uses and ``lexicon.txt``.

    Raises:
        UserError: if a word has no pronunciation.
    """
    words: set[str] = set()
    for split, utterances in sources.prompts().items():
        folder = f"LibriSpeech/{FOLDERS[split]}"
        if tiny:
            utterances = _draw(utterances, TINY[split])
        listings: dict[str, list[str]] = {}
        for utterance in utterances:
            speaker, chapter, _ = utterance.id.split("-")
            place = f"{folder}/{speaker}/{chapter}"
            writer.audio(f"{place}/{utterance.id}.flac", read_pcm(utterance.path), split=split, speaker=speaker)
            listings.setdefault(f"{place}/{speaker}-{chapter}.trans.txt", []).append(
                f"{utterance.id} {utterance.text}\n"
            )
            words.update(utterance.text.split())
        for path, lines in listings.items():
            writer.text(path, "".join(lines))
    writer.text("LibriSpeech/lexicon.txt", "".join(f"{word}\t{_phones(word, sources)}\n" for word in sorted(words)))
    return {"tasks": ["asr", "pr"], "synthetic": False, "sources": sources.describe(["embedded", "cmudict"])}


def _draw(utterances: list[LabelledUtterance], count: int) -> list[LabelledUtterance]:
    # At most 4 words, so that a few steps suffice to fit them.
    short = [utterance for utterance in utterances if len(utterance.text.split()) <= 4]
    generator("librispeech").shuffle(short)
    return sorted(short[:count], key=lambda utterance: utterance.id)


def _phones(word: str, sources: Sources) -> str:
    phones = PRONUNCIATIONS.get(word) or " ".join(sources.pronounce(word) or ())
    if not phones:
        raise UserError(
            f"the word {word!r} of the prompts must have a pronunciation, but has none. Add it to PRONUNCIATIONS."
        )
    return phones
