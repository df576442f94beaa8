"""PR: s3prl's ``ctc`` on a corpus in LibriSpeech's layout; a lexicon turns its words into phones."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any, ClassVar

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.metrics.edits import phone_error_rate
from s3prl_pruned.superb.results.result import SplitRead
from s3prl_pruned.superb.tasks import corpora, librispeech
from s3prl_pruned.superb.tasks.driver import Evaluation, EvaluationMetrics
from s3prl_pruned.superb.tasks.drivers.ctc import TextRecognition, write_list, write_vocabulary

VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split()
CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split()
PHONES = ["SIL", "SPN", *sorted([*(f"{vowel}{stress}" for vowel in VOWELS for stress in "012"), *CONSONANTS])]
"""Silence and noise, then ARPABET with stress, in the order of s3prl's ``ctc/vocab/phoneme.txt``, so that downstream
checkpoints made with that file fit."""

LEXICONS = ("librispeech-lexicon-200k-g2p.txt", "librispeech-lexicon-allothers-g2p.txt")
"""The benchmark's lexicons, in s3prl's ``ctc/lexicon``: LibriSpeech's 200,000 words, and all other words by a
grapheme-to-phoneme model."""

LEXICON_SOURCE = "https://github.com/s3prl/s3prl/tree/main/s3prl/downstream/ctc/lexicon"
LEXICON_BLOBS = ("a9143b4f90bde7f71221b7e546f780f3b655c8f7", "cdc9ff665e674959c1150c62714150c3d3d0b726")
"""The two files' git hashes (SHA-1 of ``blob <size>\\0<content>``) in s3prl's repository."""


class PhonemeRecognition(TextRecognition):
    """The references depend on the lexicon, so an error rate is the benchmark's only with the benchmark's lexicon."""

    best_rule = "lowest PER on dev"
    no_best_rule = "the last one, since PER on dev was never measured"
    criterion = ("per", "fraction")
    official_sizes: ClassVar[dict[str, int]] = librispeech.OFFICIAL_SIZES
    required: ClassVar[dict[str, Any]] = {
        "downstream_expert.corpus.name": "libriphone",
        "downstream_expert.text.mode": "word",
        "downstream_expert.metric": ["per"],
        "downstream_expert.metric_higher_better": False,
    }

    def prepare(
        self, args: argparse.Namespace, config: dict[str, Any], *, corpus: Path, s3prl_root: Path | None
    ) -> list[SplitRead]:
        """Turn the transcripts into phones and list them for s3prl; write its vocabulary of phones."""
        settings = config["downstream_expert"]["corpus"]
        folders = self.folders(args, config)
        splits = {name: librispeech.read_split(corpus, name) for _, name in folders}
        files = _lexicon_files(corpus, s3prl_root, settings.get("lexicon"))
        lexicon = read_lexicon(files)
        texts = {name: _spell(split, lexicon, files) for name, split in splits.items()}
        read = []
        for key, name in folders:
            sha256 = hashlib.sha256("\n".join([splits[name].stamp, *texts[name].values()]).encode()).hexdigest()
            read.append(SplitRead(key=key, folder=name, num_utterances=len(texts[name]), sha256=sha256))
        name = "benchmark" if tuple(map(_git_blob, files)) == LEXICON_BLOBS else "another"
        read.append(SplitRead(key="lexicon", folder=name, num_utterances=len(lexicon), sha256=lexicon_sha256(lexicon)))
        cache = corpora.splits_folder("libriphone", corpus, read)
        for name, listed in texts.items():
            if not (cache / f"{name}.json").is_file():
                corpora.check_audio((corpus / file for file in listed), why="s3prl reads it as such")
                write_list(cache, name, listed.items())
        settings |= {"path": str(corpus), "lists": str(cache), "lexicon": [str(file) for file in files]}
        config["downstream_expert"]["text"]["vocab_file"] = str(write_vocabulary(cache, "phones.txt", PHONES))
        return read

    def differences(self, splits: list[SplitRead]) -> list[str]:
        """Differences in the splits' sizes, and in the lexicon."""
        found = super().differences(splits)
        if any((split.key, split.folder) == ("lexicon", "another") for split in splits):
            found.append("lexicon")
        return found

    def read_metrics(self, evaluation: Evaluation, text: str) -> EvaluationMetrics:
        """PER of the hypotheses that s3prl saved."""
        hypotheses, references = self.texts(evaluation)
        return EvaluationMetrics(
            metrics=[Value(name="per", value=phone_error_rate(hypotheses, references), unit="fraction")],
            printed=self.printed(evaluation, text),
            num_utterances=len(references),
        )


def read_lexicon(files: list[Path]) -> dict[str, str]:
    """Phones by word, such as ``AH0 B AW1 T``; the first of several pronunciations.

    Args:
        files: files with lines ``WORD PHONE PHONE ...``.

    Raises:
        UserError: on a line of another form, or an unknown phone.
    """
    lexicon: dict[str, str] = {}
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read as a lexicon ({error}).") from error
        for number, line in enumerate(lines, start=1):
            word, *phones = line.split() or [""]
            if not phones or not set(phones) <= set(PHONES):
                raise UserError(
                    f"{path}, line {number}: must be `WORD PHONE PHONE ...` in ARPABET with stress, such as "
                    f"`AT AE1 T`, but is {line!r}."
                )
            lexicon.setdefault(word, " ".join(phones))
    return lexicon


def lexicon_sha256(lexicon: dict[str, str]) -> str:
    """SHA-256 of words and phones, independent of their order and files."""
    lines = sorted(f"{word} {phones}" for word, phones in lexicon.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _git_blob(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _lexicon_files(corpus: Path, s3prl_root: Path | None, named: list[str] | str | None) -> list[Path]:
    """The lexicon's files, in this order: those in the settings, the corpus's own, those of a checkout of s3prl."""
    if named:
        return [Path(name) for name in ([named] if isinstance(named, str) else named)]
    if own := sorted(corpus.glob("lexicon*.txt")):
        return own
    folders = [corpus] if s3prl_root is None else [corpus, s3prl_root / "downstream" / "ctc" / "lexicon"]
    for folder in folders:
        if all((folder / name).is_file() for name in LEXICONS):
            return [folder / name for name in LEXICONS]
    raise UserError(
        f"{corpus}: must hold the benchmark's lexicon, {LEXICONS[0]} and {LEXICONS[1]}, but does not. Put them there "
        f"(from {LEXICON_SOURCE}), give a checkout of s3prl by --s3prl-root, or another lexicon by "
        "-o config.downstream_expert.corpus.lexicon=[FILE]."
    )


def _spell(split: librispeech.TranscribedSplit, lexicon: dict[str, str], files: list[Path]) -> dict[str, str]:
    """Phones by file, without boundaries between words."""
    words = {file: split.transcripts[Path(file).stem].split() for file in split.audio}
    unknown = sorted({word for found in words.values() for word in found} - lexicon.keys())
    if unknown:
        raise UserError(
            f"{split.name}: every word must be in the lexicon ({', '.join(map(str, files))}), but {len(unknown)} are "
            f"not (first {', '.join(unknown[:3])})."
        )
    return {file: " ".join(lexicon[word] for word in found) for file, found in words.items()}
