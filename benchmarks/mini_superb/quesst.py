"""QbE: the embedded English prompts in QUESST 2014's layout.

Queries are prompts of one to three words; documents are longer prompts. A document matches if its text holds the
query's words, where the last may have a suffix (``MESSAGE`` in ``MESSAGES``): QUESST's exact and lexical-variant
matches. One voice speaks both, so this is easier than QUESST; no term is in both query sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.mini_superb.clips import generator, trim
from benchmarks.mini_superb.sources import Sources
from benchmarks.mini_superb.writer import CorpusWriter, Record
from benchmarks.speech.debian_speech import read_pcm
from s3prl_pruned.config import UserError
from s3prl_pruned.data.corpus import LabelledUtterance
from s3prl_pruned.data.waveforms import SAMPLE_RATE, num_samples

ROOT = "quesst14Database"

QUERY_WORDS, DOCUMENT_WORDS = 3, 4
"""Maximum words of a query, and minimum words of a document."""

QUERY_LETTERS = 4
"""Minimum letters of a query: spelling says little about how shorter words sound within others."""

QUERY_SECONDS, DOCUMENT_SECONDS = 0.45, 8.0
"""Minimum seconds of a query (trimmed), and maximum of a document."""

MOST_MATCHES = 0.2
"""Maximum share of documents that match a query; more frequent terms are left out."""

SIZES = {"full": {"documents": 160, "queries": 24}, "tiny": {"documents": 12, "queries": 3}}
"""Number of documents, and maximum queries of each set."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One searched recording."""

    name: str
    """A name such as ``quesst14_00001``."""

    text: str
    seconds: float


def matches(query: str, text: str) -> bool:
    """Whether ``text`` holds the words of ``query``; the last word may have a suffix.

    >>> matches("MESSAGE", "NO NEW MESSAGES"), matches("NEW", "ANEW")
    (True, False)
    """
    return f" {query}" in f" {text}"


def write_quesst(writer: CorpusWriter, sources: Sources, *, tiny: bool) -> Record:
    """Write ``quesst14Database/``: documents, both query sets, language keys and ground truths.

    Raises:
        UserError: if too few prompts fit.
    """
    size = SIZES["tiny" if tiny else "full"]
    draw = generator("quesst")
    prompts = sorted((u for split in sources.prompts().values() for u in split), key=lambda u: u.id)
    longest = DOCUMENT_SECONDS * SAMPLE_RATE
    long = [u for u in prompts if len(u.text.split()) >= DOCUMENT_WORDS and num_samples(u.path) <= longest]
    sets = _queries(prompts, long, count=size["queries"])
    if not all(sets.values()):
        raise UserError("QbE needs a term for either query set that longer prompts hold, but finds fewer.")
    terms = {query.text for chosen in sets.values() for query in chosen}
    # Every term must occur somewhere; the remaining documents are sampled.
    draw.shuffle(long)
    needed: dict[str, LabelledUtterance] = {}
    for term in sorted(terms):
        first = next(u for u in long if matches(term, u.text))
        needed[first.id] = first
    taken = [*needed.values(), *(u for u in long if u.id not in needed)][: max(size["documents"], len(needed))]
    documents = []
    for number, utterance in enumerate(sorted(taken, key=lambda u: u.id), start=1):
        wav = read_pcm(utterance.path)
        name = f"quesst14_{number:05d}"
        writer.audio(f"{ROOT}/Audio/{name}.wav", wav, split="documents", speaker="asterisk/en")
        documents.append(Document(name=name, text=utterance.text, seconds=len(wav) / SAMPLE_RATE))
    _write_list(writer, "utterances", [f"Audio/{document.name}" for document in documents])
    for split, chosen in sets.items():
        names = {f"quesst14_{split}_{number:04d}": query for number, query in enumerate(chosen, start=1)}
        for name, query in names.items():
            wav = _query_speech(query)
            writer.audio(f"{ROOT}/{split}_queries/{name}.wav", wav, split=f"{split} queries", speaker="asterisk/en")
        _write_list(writer, split, [f"{split}_queries/{name}" for name in names])
        _write_truth(writer, split, {name: query.text for name, query in names.items()}, documents)
    note = "One voice speaks queries and documents; a match holds the query's words, the last also with an ending."
    return {"tasks": ["qbe"], "synthetic": False, "note": note, "sources": sources.describe(["embedded"])}


def _queries(
    prompts: list[LabelledUtterance], documents: list[LabelledUtterance], *, count: int
) -> dict[str, list[LabelledUtterance]]:
    """Queries of ``dev`` and ``eval``; all recordings of a term are in the same set."""
    terms: dict[str, list[LabelledUtterance]] = {}
    for prompt in prompts:
        words = prompt.text.split()
        if len(words) <= QUERY_WORDS and len(prompt.text) >= QUERY_LETTERS:
            found = sum(matches(prompt.text, document.text) for document in documents)
            if (
                1 <= found <= MOST_MATCHES * len(documents)
                and len(_query_speech(prompt)) >= QUERY_SECONDS * SAMPLE_RATE
            ):
                terms.setdefault(prompt.text, []).append(prompt)
    order = sorted(terms)
    generator("quesst", "queries").shuffle(order)
    sets: dict[str, list[LabelledUtterance]] = {"dev": [], "eval": []}
    for number, term in enumerate(order):
        sets[("dev", "eval")[number % 2]] += terms[term]
    return {split: sorted(queries[:count], key=lambda u: u.id) for split, queries in sets.items()}


def _query_speech(query: LabelledUtterance) -> np.ndarray:
    return trim(read_pcm(query.path))


def _write_list(writer: CorpusWriter, name: str, paths: list[str]) -> None:
    writer.text(f"{ROOT}/scoring/language_key_{name}.lst", "".join(f"{ROOT}/{path}.wav nnenglish\n" for path in paths))


def _write_truth(writer: CorpusWriter, split: str, queries: dict[str, str], documents: list[Document]) -> None:
    """Write NIST's three files: the documents (ecf), the terms (tlist), and the occurrences (rttm)."""
    folder = f"{ROOT}/scoring/groundtruth_quesst14_{split}"
    total = sum(document.seconds for document in documents)
    excerpts = "".join(
        f'<excerpt audio_filename="{d.name}" channel="1" tbeg="0.000" dur="{d.seconds:.3f}" source_type="splitcts"/>\n'
        for d in documents
    )
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    writer.text(
        f"{folder}/quesst14.ecf.xml",
        f'{head}<ecf source_signal_duration="{total:.3f}" language="english" version="1">\n{excerpts}</ecf>\n',
    )
    terms = "".join(f'<term termid="{name}"><termtext>{name}</termtext></term>\n' for name in queries)
    writer.text(
        f"{folder}/quesst14_{split}.tlist.xml",
        f'{head}<termlist ecf_filename="quesst14.ecf.xml" language="english" encoding="UTF-8" compareNormalize="" '
        f'version="1">\n{terms}</termlist>\n',
    )
    lines = [
        f"LEXEME {document.name} 1 0.000 {document.seconds:.3f} {name} lex asterisk NA\n"
        for document in documents
        for name, text in queries.items()
        if matches(text, document.text)
    ]
    writer.text(f"{folder}/quesst14_{split}.rttm", "".join(lines))
