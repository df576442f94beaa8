"""The score, compared with the published rows of both scales."""

import dataclasses

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import TASKS, Value
from s3prl_pruned.superb.score.published import PUBLISHED
from s3prl_pruned.superb.score.score import SCALES, normalised, published_values, superb_score

TABLE1 = [row for row in PUBLISHED if row.table1_score is not None]
LEADERBOARD = [row for row in PUBLISHED if row.leaderboard_score is not None]
WITHOUT_FAHP = "Wang 2023, w/o FAHP"


def score(row, scale):
    return superb_score(published_values(row), scale).total


def constants(pick):
    return {
        name: {m.name: Value(name=m.name, value=pick(m), unit="percent") for m in task.metrics}
        for name, task in TASKS.items()
    }


@pytest.mark.parametrize("row", [row for row in TABLE1 if row.model != WITHOUT_FAHP], ids=lambda row: row.model)
def test_paper_scale_reproduces_table_1(row):
    assert score(row, "paper") == pytest.approx(row.table1_score, abs=0.01)


def test_the_row_without_fahp_does_not_agree_with_itself():
    assert len(TABLE1) == 8
    (row,) = [row for row in TABLE1 if row.model == WITHOUT_FAHP]
    assert row.table1_score == 721.79
    assert score(row, "paper") == pytest.approx(707.11, abs=0.01)


def test_leaderboard_scale_reproduces_the_published_scores():
    errors = [abs(score(row, "leaderboard") - row.leaderboard_score) for row in LEADERBOARD]
    assert len(errors) == 10
    assert max(errors) < 1 and sum(errors) / len(errors) < 0.4
    (proposed,) = [row for row in PUBLISHED if row.model == "Wang 2023, proposed"]
    assert score(proposed, "leaderboard") == pytest.approx(863.6, abs=0.05)


def test_the_comparison_with_table_1_fails_on_another_constant(monkeypatch):
    asr = TASKS["asr"]
    metric = dataclasses.replace(asr.metrics[0], fbank=23.0)
    monkeypatch.setitem(TASKS, "asr", dataclasses.replace(asr, metrics=(metric,)))
    assert abs(score(TABLE1[0], "paper") - TABLE1[0].table1_score) > 0.01


@pytest.mark.parametrize("scale", SCALES)
def test_fbank_is_0_and_the_state_of_the_art_is_1000(scale):
    assert superb_score(constants(lambda m: m.fbank), scale).total == 0
    sota = constants(lambda m: m.sota_paper if scale == "paper" else m.sota_leaderboard)
    assert superb_score(sota, scale).total == pytest.approx(1000)


def test_slot_filling_counts_by_f1_alone_or_by_the_mean_of_both():
    values = published_values(TABLE1[3])
    f1, cer = TASKS["sf"].metrics
    paper, board = (superb_score(values, scale).terms["sf"] for scale in SCALES)
    assert paper == normalised(values["sf"]["slot_type_f1"], f1, "paper")
    assert board == pytest.approx(sum(normalised(values["sf"][m.name], m, "leaderboard") for m in (f1, cer)) / 2)
    del values["sf"]["slot_value_cer"]
    assert superb_score(values, "paper").total is not None
    assert superb_score(values, "leaderboard").missing == ("sf",)


def test_fractions_and_percents_of_one_value_score_alike():
    percents = published_values(TABLE1[0])
    fractions = {
        task: {n: dataclasses.replace(v, value=v.value / 100, unit="fraction") for n, v in values.items()}
        for task, values in percents.items()
    }
    for scale in SCALES:
        assert superb_score(fractions, scale).total == pytest.approx(superb_score(percents, scale).total)


def test_a_missing_task_makes_the_score_partial():
    values = published_values(TABLE1[0])
    full = superb_score(values, "paper")
    del values["qbe"]
    partial = superb_score(values, "paper")
    assert partial.total is None and partial.missing == ("qbe",)
    assert partial.partial == pytest.approx((10 * full.total - full.terms["qbe"]) / 9)
    nothing = superb_score({}, "paper")
    assert nothing.total is None and nothing.partial is None and set(nothing.missing) == set(TASKS)


def test_impossible_values_are_refused():
    for value, message in [
        (Value(name="acc", value=101.0, unit="percent"), "acc must be between 0 and 100 percent, but is 101 percent"),
        (Value(name="acc", value=96.0, unit="fraction"), "but is 96 fraction"),
        (Value(name="acc", value=float("nan"), unit="percent"), "acc must be a finite number, but is nan"),
    ]:
        with pytest.raises(UserError, match=message):
            superb_score({"ks": {"acc": value}}, "paper")
    with pytest.raises(UserError, match="wer must be at least 0 percent"):
        superb_score({"asr": {"wer": Value(name="wer", value=-1.0, unit="percent")}}, "paper")
    # Rates that count insertions may exceed 100 percent, and MTWV may be negative.
    superb_score({"asr": {"wer": Value(name="wer", value=130.0, unit="percent")}}, "paper")
    superb_score({"qbe": {"mtwv": Value(name="mtwv", value=-0.01, unit="fraction")}}, "paper")
