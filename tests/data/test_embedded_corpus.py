"""The embedded corpus is complete, correctly labelled and small, and its splits share no text."""

import csv
import json
from collections import Counter

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.data.corpus import LABELLED_SPLITS, embedded_corpus, read_split
from s3prl_pruned.data.waveforms import num_samples, read_waveform

ROOT = embedded_corpus()
RUN = 5  # words; written out here, so that a change of the package's constant is noticed


@pytest.fixture(scope="module")
def splits():
    return {split: read_split(ROOT, split) for split in LABELLED_SPLITS}


@pytest.fixture(scope="module")
def prompts():
    with open(ROOT / "prompts.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def runs_of_words(text):
    words = text.split()
    return {" ".join(words[i : i + RUN]) for i in range(len(words) - RUN + 1)} | {text}


def shared_texts(one, other):
    """Equal texts, or equal runs of five words, that two lists of texts share."""
    return set().union(*map(runs_of_words, one)) & set().union(*map(runs_of_words, other))


def test_train_dev_and_test_share_no_text(splits):
    texts = {split: [utterance.text for utterance in splits[split]] for split in splits}
    for one, other in [("train", "dev"), ("train", "test"), ("dev", "test")]:
        assert shared_texts(texts[one], texts[other]) == set()
    # The check can fail: one test text in train is noticed, and so is half of a long one.
    long = next(text for text in texts["test"] if len(text.split()) > 8)
    assert shared_texts([*texts["train"], texts["test"][0]], texts["test"])
    assert shared_texts([" ".join(long.split()[:RUN])], texts["test"])


def test_unlabelled_english_shares_no_text_with_dev_and_test(splits):
    english = list(_extra_lines("1"))
    assert len(english) == 9
    held_out = [utterance.text for split in ("dev", "test") for utterance in splits[split]]
    assert shared_texts(english, held_out) == set()


def _extra_lines(speaker):
    for listing in (ROOT / "extra" / speaker).glob("*/*.trans.txt"):
        for line in listing.read_text(encoding="utf-8").splitlines():
            text = "".join(c if c.isalpha() or c == "'" else " " for c in line.partition(" ")[2].upper())
            yield " ".join(text.split())


def test_transcripts_use_capitals_apostrophe_and_space_only(splits):
    for utterances in splits.values():
        for utterance in utterances:
            assert set(utterance.text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ' "), utterance
            assert utterance.text == " ".join(utterance.text.split()) != ""


def test_every_labelled_file_decodes_and_every_file_has_one_entry(splits):
    for split, utterances in splits.items():
        files = {path.stem: path for path in (ROOT / split).rglob("*.ogg")}
        assert files == {utterance.id: utterance.path for utterance in utterances}
        assert len(files) == len(utterances)
        for utterance in utterances:
            speaker, chapter, _ = utterance.id.split("-")
            assert utterance.path.parent == ROOT / split / speaker / chapter
            wav = read_waveform(utterance.path)
            assert 0.4 <= len(wav) / 16_000 <= 20.0
            # Recorded speech at its original level: neither silent nor clipped.
            assert wav.abs().max() < 0.999 and wav.square().mean().sqrt() > 0.02, utterance


def test_length_of_each_text_fits_its_audio(splits):
    """No text on the wrong recording: nobody speaks more than 25 characters a second."""
    for utterances in splits.values():
        for utterance in utterances:
            rate = len(utterance.text) / (num_samples(utterance.path) / 16_000)
            assert 1 < rate < 25, utterance


def test_prompt_list_and_summary_agree_with_the_files(prompts):
    for prompt in prompts:
        speaker, chapter, _ = prompt["utterance"].split("-")
        path = ROOT / prompt["split"] / speaker / chapter / f"{prompt['utterance']}.ogg"
        assert abs(num_samples(path) - float(prompt["seconds"]) * 16_000) <= 8  # written to 1 ms
    assert len(prompts) == len({prompt["utterance"] for prompt in prompts})
    assert len(prompts) == sum(1 for _ in ROOT.rglob("*.ogg"))
    summary = json.loads((ROOT / "corpus.json").read_text(encoding="utf-8"))
    counted = Counter((prompt["split"], prompt["language"]) for prompt in prompts)
    assert counted == {
        (split, language): entry["utterances"]
        for split, languages in summary["splits"].items()
        for language, entry in languages.items()
    }


def test_corpus_is_small_and_every_source_is_attributed():
    size = sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file())
    assert size < 25_000_000
    summary = json.loads((ROOT / "corpus.json").read_text(encoding="utf-8"))
    notice = (ROOT / "LICENSE.md").read_text(encoding="utf-8")
    for source in summary["sources"]:
        assert source["package"] in notice and source["version"] in notice
        assert len(source["sha256"]) == 64
        assert source["licence"] in ("CC-BY-SA-3.0", "CC-BY-3.0")


def test_a_split_without_transcripts_or_audio_is_refused(tmp_path):
    with pytest.raises(UserError, match="must hold .*trans.txt"):
        read_split(tmp_path, "train")
    folder = tmp_path / "train" / "7" / "8"
    folder.mkdir(parents=True)
    (folder / "7-8.trans.txt").write_text("7-8-0000 HELLO\n")
    with pytest.raises(UserError, match="must have its audio beside it.*7-8-0000"):
        read_split(tmp_path, "train")
