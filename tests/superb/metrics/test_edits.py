"""ASR's, PR's and SF's metrics, compared with s3prl's own functions, live, and with cases worked by hand."""

import random

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.metrics.edits import (
    phone_error_rate,
    slot_type_f1,
    slot_value_cer,
    slot_value_edits,
    word_and_character_error_rates,
)

SLOTS = ("artist", "artistname", "city", "time")


def tagged(rng, sloppy=False):
    """Text with slots; sloppy: as from an untrained model, with unclosed, nested, doubled tags, spaces at the ends."""
    words = []
    for _ in range(rng.randrange(5)):
        word = "".join(rng.choices("ABC'", k=rng.randrange(1, 5)))
        slot = rng.choice(SLOTS)
        kinds = [[word], [f"B-{slot}", word, word[::-1], f"E-{slot}"]]
        if sloppy:
            kinds += [
                [f"B-{slot}", word],
                [f"E-{slot}"],
                ["", word, ""],
                [f"B-{slot}", "B-city", word, "E-city", f"E-{slot}"],
            ]
        words += rng.choice(kinds)
    return " ".join(words)


def test_metrics_equal_those_that_s3prl_prints():
    metric = pytest.importorskip("s3prl.downstream.ctc.metric")
    rng = random.Random(0)
    for sloppy in (False, True):
        references = {str(i): tagged(rng) for i in range(200)} | {"slot": "B-city PARIS E-city"}
        hypotheses = {key: tagged(rng, sloppy) if rng.random() < 0.7 else text for key, text in references.items()}
        texts = {"hypothesis": list(hypotheses.values()), "groundtruth": list(references.values())}
        for ours, theirs in ((slot_type_f1, metric.slot_type_f1), (slot_value_cer, metric.slot_value_cer)):
            assert ours(hypotheses, references) == pytest.approx(theirs(**texts), abs=1e-12)
            # The comparison can fail: without one slot the value differs.
            changed = {**hypotheses, "slot": "" if "city" in hypotheses["slot"] else references["slot"]}
            assert ours(changed, references) != pytest.approx(theirs(**texts), abs=1e-6)
    phones = {str(i): " ".join(rng.choices(["AA", "B", "SIL"], k=rng.randrange(1, 9))) for i in range(100)}
    heard = {key: " ".join(rng.choices(["AA", "B", "SIL"], k=rng.randrange(9))) for key in phones}
    printed = metric.per(hypothesis=list(heard.values()), groundtruth=list(phones.values()))
    assert phone_error_rate(heard, phones) == pytest.approx(printed, abs=1e-12)


def test_cases_worked_by_hand():
    # One substitution and one insertion in four phones.
    assert phone_error_rate({"a": "B AA T S S"}, {"a": "B AE T S"}) == 2 / 4
    assert phone_error_rate({"a": ""}, {"a": "B AE"}) == 1
    assert phone_error_rate({"a": "B AE T T T"}, {"a": "B"}) == 4  # may exceed 1

    references = {
        "a": "PLAY B-artist MOBY E-artist IN B-city ROME E-city",
        "b": "STOP",
        "c": "B-time NOON E-time",
    }
    # a: artist of {artist, city}, and time too: 2 * 1 / (2 + 2); b: nothing in either: 1; c: none of one: 0.
    hypotheses = {"a": "PLAY B-artist MOBI E-artist B-time X E-time", "b": "STOP", "c": "NOON"}
    assert slot_type_f1(hypotheses, references) == pytest.approx((0.5 + 1 + 0) / 3)
    # MOBI for MOBY 1, nothing for ROME 4, nothing for NOON 4, of 12 characters; the false time costs nothing.
    assert slot_value_cer(hypotheses, references) == pytest.approx((1 + 4 + 4) / 12)


def test_of_several_values_the_nearest_counts():
    references = {"a": "B-city ROME E-city"}
    assert slot_value_cer({"a": "B-city PARIS E-city B-city ROMA E-city"}, references) == 1 / 4


def test_the_pieces_add_up_to_the_whole():
    rng = random.Random(1)
    references = {str(i): tagged(rng) for i in range(100)}
    hypotheses = {key: tagged(rng, sloppy=True) if rng.random() < 0.5 else text for key, text in references.items()}
    counts = [slot_value_edits(hypotheses[key], text) for key, text in references.items()]
    edits, characters = (sum(each) for each in zip(*counts, strict=True))
    assert edits / characters == pytest.approx(slot_value_cer(hypotheses, references), abs=1e-12)
    assert slot_value_edits("STOP", "STOP") == (0, 0)


def test_tags_that_s3prl_cannot_read_are_an_error():
    with pytest.raises(UserError, match="slot_type_f1: s3prl cannot read the tags of a text"):
        slot_type_f1({"a": "B-time 10:30 E-time"}, {"a": "B-time TEN E-time"})


def test_nothing_to_score_is_an_error():
    with pytest.raises(UserError, match="per: the references are empty"):
        phone_error_rate({"a": "B"}, {"a": ""})
    with pytest.raises(UserError, match="slot_value_cer: the references are empty"):
        slot_value_cer({"a": "STOP"}, {"a": "STOP"})
    with pytest.raises(UserError, match="slot_type_f1: the references are empty"):
        slot_type_f1({}, {})


def test_error_rates_count_edits_over_reference_length():
    # By hand: words 1 substitution + 1 deletion of 5; characters: "ONE TWO" 7, "A CAT SAT" 9.
    references = {"a": "ONE TWO", "b": "A CAT SAT"}
    hypotheses = {"a": "ONE TOO", "b": "A SAT"}
    wer, cer = word_and_character_error_rates(hypotheses, references)
    assert (wer.name, wer.value, wer.unit) == ("wer", 100 * 2 / 5, "percent")
    assert (cer.name, cer.value, cer.unit) == ("cer", 100 * (1 + 4) / 16, "percent")
    wer, _ = word_and_character_error_rates({"a": "A B C"}, {"a": "X"})
    assert wer.value == 300
    with pytest.raises(UserError, match="there is nothing to score"):
        word_and_character_error_rates({"a": ""}, {"a": ""})
