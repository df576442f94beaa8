"""Models' costs: printed or counted, never estimated."""

import pytest

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.superb.score.costs import EncoderCosts, counted_macs, timed
from s3prl_pruned.superb.score.scored_models import published_models

MODELS = {model.name: model for model in published_models()}


def test_macs_are_the_leaderboards_where_it_or_a_paper_prints_them():
    for name, giga in (("WavLM Base", 1670), ("HuBERT Base", 1669), ("STaRHuBERT", 463.5), ("DPHuBERT", 654.1)):
        assert MODELS[name].costs == EncoderCosts(macs=giga * 1e9)


def test_macs_are_counted_by_the_same_rule_where_only_the_structure_is_known():
    assert counted_macs("hubert_base") == 1_669_156_022_848  # the profiler's own page
    assert counted_macs("wavlm_base") / 1e9 == pytest.approx(1670, abs=0.5)
    assert counted_macs("lighthubert_small") / 1e9 == pytest.approx(860.7, rel=0.003)  # printed
    assert MODELS["wav2vec2 Base"].costs == EncoderCosts(macs=1_669_156_022_848, macs_counted=True)
    assert MODELS["DistilHuBERT"].costs.macs == counted_macs("distilhubert")


def test_unpublished_costs_are_missing():
    for name in ("DistilWavLM", "Wang 2023, proposed", "USAD Small"):
        assert MODELS[name].costs == EncoderCosts()
    assert MODELS["DiariZen Base+, 90 %"].costs == EncoderCosts(printed_macs_per_second=0.6e9)


def test_a_measured_row_gives_the_time_and_the_macs_of_a_model_of_which_none_are_known():
    row = {"seconds": 0.25, "noisy": True, "leaderboard_macs": 10**11}
    assert timed(EncoderCosts(), row) == EncoderCosts(macs=1e11, macs_counted=True, seconds=0.25, noisy=True)
    assert timed(EncoderCosts(macs=3e11), row) == EncoderCosts(macs=3e11, seconds=0.25, noisy=True)
    assert timed(EncoderCosts(), {"seconds": 0.25, "noisy": False}).macs is None


def test_impossible_costs_are_refused():
    with pytest.raises(UserError, match="table: costs must be finite and not negative, but are .'seconds': -1.0"):
        from_dict(EncoderCosts, {"seconds": -1.0}, "table")
    for wrong in (float("inf"), float("nan")):
        with pytest.raises(UserError, match="costs must be finite and not negative, but are"):
            timed(EncoderCosts(), {"seconds": wrong, "noisy": False})
