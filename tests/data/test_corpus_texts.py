"""Prompts are normalised to what is spoken, and assigned to splits by families of texts."""

import gzip

import pytest

from benchmarks.speech.asterisk import Prompt, english_splits, read_prompts
from s3prl_pruned.data.corpus import assign_splits, normalize_transcript, text_families


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Call-Forward on No Answer.", "CALL FORWARD ON NO ANSWER"),
        ("press * or #, then 0", "PRESS STAR OR POUND THEN ZERO"),
        ("The user's A.M. call...", "THE USER'S A M CALL"),
        ("at [@]", "AT"),
        ("Hang up. (simple tone sound plays)", "HANG UP"),
        ("[sound of monkeys screaming]", None),
        ("<beep ascending>", None),
        ("Dial 1234", None),
        ("3D audio", None),
        ("activé", None),
    ],
)
def test_text_becomes_what_is_spoken_or_is_refused(written, spoken):
    assert normalize_transcript(written) == spoken


def test_families_hold_equal_texts_and_texts_with_five_words_in_common():
    texts = {
        "a": "ONE TWO THREE FOUR FIVE",
        "b": "ZERO ONE TWO THREE FOUR FIVE",
        "c": "ZERO ONE TWO THREE FOUR SIX",
        "d": "TWO THREE FOUR FIVE",
        "e": "YES",
        "f": "YES",
    }
    # a-b share five words, b-c too: transitive. d is four words of a only.
    assert text_families(texts) == [["a", "b", "c"], ["d"], ["e", "f"]]


def test_splits_depend_on_seed_and_families_but_not_on_the_order_of_prompts():
    texts = {f"p{i}": f"W{i} " * (1 + i % 7) for i in range(200)} | {f"q{i}": "SAME" for i in range(3)}
    texts = {name: text.strip() for name, text in texts.items()}
    splits = assign_splits(texts, seed=0)
    assert splits == assign_splits(dict(reversed(texts.items())), seed=0)
    assert splits != assign_splits(texts, seed=1)
    assert splits.keys() == texts.keys()
    assert len({splits[f"q{i}"] for i in range(3)}) == 1
    for split in ("dev", "test"):
        assert 18 <= sum(value == split for value in splits.values()) <= 24
    kept = [name for name in texts if splits[name] == "test"]
    assert {assign_splits(texts, seed=0, keep_in_train=kept)[name] for name in kept} == {"train"}


def prompt(name, text, seconds=2.0):
    return Prompt(name=name, utterance=f"1-0-{name}", path=None, seconds=seconds, text=text)


def test_long_and_uncertain_prompts_are_not_labelled():
    prompts = [prompt("a", "Hello."), prompt("b", "Dial 500 now"), prompt("c", "So long", seconds=20.5)]
    prompts += [prompt("spy-iax", "IAX"), prompt("digits/h-40", "fourtieth")]
    splits, transcripts = english_splits(prompts)
    assert transcripts == {"a": "HELLO", "digits/h-40": "FORTIETH"}
    assert {name for name in splits if splits[name] == "extra"} == {"b", "c", "spy-iax"}


def test_prompts_leave_out_tones_silence_and_what_is_too_short(tmp_path):
    voice = tmp_path / "usr/share/asterisk/sounds/en_US_f_Somebody"
    for name, size in {"beep": 8000, "silence/1": 8000, "a": 3100, "b": 3200, "digits/1": 8000}.items():
        path = voice / f"{name}.g722"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    listing = tmp_path / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    listing.parent.mkdir(parents=True)
    listing.write_bytes(gzip.compress(b"; English\n\nb: Now: go.\ndigits/1: one\n"))
    found = read_prompts(tmp_path, tmp_path, language="en")
    assert [(p.name, p.utterance, p.seconds, p.text) for p in found] == [
        ("b", "1-0-0001", 0.4, "Now: go."),
        ("digits/1", "1-1-0000", 1.0, "one"),
    ]
