"""The published rows, compared with numbers typed again from their sources."""

import pytest

from s3prl_pruned.superb.score.published import PUBLISHED
from s3prl_pruned.superb.score.score import published_values, superb_score
from s3prl_pruned.superb.score.scored_models import published_models

ROWS = {row.model: row for row in PUBLISHED}
STAR = {  # Jang et al. 2024, Table 1: params, MACs, score, PR ASR KS QbE SID SV SD IC F1 CER ER
    "STaRHuBERT": (22.31, 463.5, 887, 8.16, 9.35, 96.27, 6.88, 77.58, 5.39, 6.05, 97.55, 87.94, 25.31, 63.01),
    "STaRHuBERT-L": (26.63, 511.9, 896, 7.97, 8.91, 96.56, 6.77, 78.66, 5.45, 5.83, 97.50, 88.01, 25.36, 63.48),
    "ARMHuBERT-S": (22.39, 449.4, 828, 8.63, 10.82, 96.82, 7.20, 63.76, 5.58, 7.01, 97.02, 86.34, 29.02, 62.96),
    "DPHuBERT": (23.59, 654.1, 866, 9.67, 10.47, 96.36, 6.93, 76.83, 5.84, 5.92, 97.92, 86.86, 28.26, 63.16),
}
ARM = {  # Jang et al. 2023, Table 1: params, PR ASR KS QbE SID SV SD IC F1 CER ER
    "MaskHuBERT": (26.64, 7.30, 9.77, 96.36, 6.64, 62.83, 5.38, 6.79, 97.05, 87.31, 27.10, 62.37),
    "ARMHuBERT": (26.45, 7.72, 9.96, 96.88, 6.35, 65.03, 5.68, 7.10, 97.07, 87.59, 26.06, 62.86),
    "ARMwavLM-S": (22.39, 7.42, 10.03, 97.01, 7.41, 71.29, 5.99, 7.11, 97.76, 87.41, 26.97, 64.54),
    "FitHuBERT": (22.49, 13.32, 12.09, 96.27, 4.89, 55.71, 8.00, 6.84, 91.25, 84.06, 32.46, 59.82),
    "FitW2V2": (31.63, 12.22, 11.44, 96.04, 4.75, 64.71, 6.65, 6.44, 93.38, 86.65, 29.40, 62.35),
    "3-L One-Pred": (30.58, 13.34, 12.23, 96.69, 4.89, 75.71, 6.48, 6.56, 94.15, 82.89, 34.65, 63.95),
    "12-L Half-L2L": (26.87, 10.67, 10.96, 97.24, 6.04, 69.52, 6.13, 6.81, 96.97, 86.11, 30.93, 63.24),
}


def in_the_order_of_their_table(row):
    order = ("pr", "asr", "ks", "qbe", "sid", "sv", "sd", "ic", "sf", "er")
    return tuple(number for task in order for number in row.metrics[task])


@pytest.mark.parametrize("name", STAR)
def test_rows_of_stars_table(name):
    row, (size, macs, score, *metrics) = ROWS[name], STAR[name]
    assert (row.params_millions, row.leaderboard_macs, row.leaderboard_score) == (size, macs, score)
    assert in_the_order_of_their_table(row) == tuple(metrics)


@pytest.mark.parametrize("name", ARM)
def test_rows_of_armhuberts_table(name):
    assert (ROWS[name].params_millions, *in_the_order_of_their_table(ROWS[name])) == ARM[name]


def test_models_whose_tasks_are_not_all_published_have_these_and_no_score():
    assert ROWS["USAD Small"].metrics == {
        "pr": (7.8,), "asr": (9.5,), "sd": (4.9,), "ks": (96.8,), "ic": (95.5,), "sid": (73.5,), "er": (66.3,)
    }  # fmt: skip
    assert ROWS["Wang 2023, w/o STE"].metrics == {"asr": (10.61,), "ic": (97.07,), "er": (64.17,), "sid": (74.65,)}
    assert ROWS["Wang 2023, w/o STE"].params_millions == 26.37
    sizes = {"STaRHuBERT-S": 14.1, "STaRHuBERT-XS": 9.39, "DiariZen Base+, 80 %": 18.8, "DiariZen Large, 90 %": 30.6}
    assert {name: ROWS[name].params_millions for name in sizes} == sizes
    printed = {"80": (18.8, 1.1, 63.3, 3.8), "90": (9.4, 0.6, 30.6, 1.8)}
    for share, (base, its_macs, large, larges_macs) in printed.items():
        found = [ROWS[f"DiariZen {size}, {share} %"] for size in ("Base+", "Large")]
        assert [(row.params_millions, row.macs_per_second) for row in found] == [(base, its_macs), (large, larges_macs)]
    for model in published_models():
        complete = len(model.results) == 10
        assert all((score.total is None) != complete for score in model.scores.values()), model.name


def test_usads_table_gives_dpwavlm_as_its_authors_do_to_one_digit():
    theirs, ours = ROWS["DPWavLM, in USAD's table"].metrics, ROWS["DPWavLM (teacher Base+)"].metrics
    assert set(theirs) == {"pr", "asr", "sd", "ks", "ic", "sid", "er"}
    assert all(abs(theirs[task][0] - ours[task][0]) <= 0.05 + 1e-9 for task in theirs)


def test_fbank_is_0_and_wavlm_large_is_1000_on_the_papers_scale():
    for name, expected in (("FBANK", 0), ("WavLM Large", 1000)):
        assert superb_score(published_values(ROWS[name]), "paper").total == pytest.approx(expected)


def test_every_row_has_a_source_and_names_are_given_once():
    assert len(ROWS) == len(PUBLISHED) == 32
    assert all(row.source for row in PUBLISHED)
    printed = {row.model: row.leaderboard_macs for row in PUBLISHED if row.leaderboard_macs}
    assert printed == {
        "HuBERT Base": 1669, "WavLM Base": 1670, "LightHuBERT small": 860.7, "DPHuBERT": 654.1,
        "DPWavLM (teacher Base+)": 589, "STaRHuBERT-L": 511.9, "STaRHuBERT": 463.5, "ARMHuBERT-S": 449.4,
    }  # fmt: skip
