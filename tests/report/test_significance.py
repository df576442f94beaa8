"""MAPSSWE compared with a case worked by hand, scipy's paired test and editdistance's edits."""

import math

import editdistance
import numpy as np
import pytest
from scipy import stats

from s3prl_pruned.config import UserError
from s3prl_pruned.report.significance import align_errors, mapsswe, mcnemar, segment_errors

REFERENCE = "a b c d e f g h i j".split()


def random_words(num, seed):
    rng = np.random.default_rng(seed)
    return {f"u{i}": " ".join(rng.choice(list("ABCDEFGH"), size=rng.integers(3, 15))) for i in range(num)}


def heard(references, seed, wrong):
    """Hypotheses of an imaginary recogniser: a share of the words is replaced, doubled or left out."""
    rng, hypotheses = np.random.default_rng(seed), {}
    for key, text in references.items():
        words = [[w] if rng.random() > wrong else [[], [w, w], ["Z"]][rng.integers(3)] for w in text.split()]
        hypotheses[key] = " ".join(x for parts in words for x in parts)
    return hypotheses


def random_texts(num, seed, wrong):
    """References of 3 to 14 words, and hypotheses."""
    references = random_words(num, seed)
    return references, heard(references, seed + 1, wrong)


def test_errors_are_at_their_words_and_insertions_between():
    assert align_errors("a b c".split(), "a x c".split()) == [0, 0, 0, 1, 0, 0, 0]
    assert align_errors("a b c".split(), "a c".split()) == [0, 0, 0, 1, 0, 0, 0]
    assert align_errors("a b c".split(), "x y a b c z".split()) == [2, 0, 0, 0, 0, 0, 1]
    assert align_errors([], "x y".split()) == [2] and align_errors("a".split(), []) == [0, 1, 0]


@pytest.mark.parametrize("seed", range(3))
def test_the_errors_sum_to_the_edit_distance(seed):
    references, hypotheses = random_texts(50, seed, 0.4)
    for key, reference in references.items():
        edits = editdistance.eval(reference.split(), hypotheses[key].split())
        assert sum(align_errors(reference.split(), hypotheses[key].split())) == edits


def test_two_words_correct_in_both_systems_separate_segments_and_one_does_not():
    """The first errs at b, d and j, the second at h: b-d are one segment (only c is between), h-j another (only i)."""
    first = "a X c Y e f g h i Z".split()
    second = "a b c d e f g W i j".split()
    assert segment_errors(REFERENCE, first, second) == [(2, 0), (1, 1)]
    assert segment_errors(REFERENCE, REFERENCE, REFERENCE) == []
    # an insertion between two correct words is an error between them
    assert segment_errors(REFERENCE, "a x b c y d e f g h i j".split(), REFERENCE) == [(1, 0), (1, 0)]
    assert segment_errors(REFERENCE, "a x b y c d e f g h i j".split(), REFERENCE) == [(2, 0)]


def test_a_case_by_hand():
    """Z = 2, 0, 1, -1, 1: mean 0.6, variance (1.96 + 0.36 + 0.16 + 2.56 + 0.16) / 4 = 1.3, W = 0.6 / sqrt(1.3 / 5)."""
    references = dict.fromkeys("12345", "a b c d e")
    first = {"1": "x y c d e", "2": "x b c d e", "3": "a b c d", "4": "a b c d e", "5": "a b c d e e"}
    second = {"1": "a b c d e", "2": "x b c d e", "3": "a b c d e", "4": "a b d e", "5": "a b c d e"}
    found = mapsswe(references, first, second)
    assert found.errors == (5, 2) and found.words == 25 and found.segments == 5
    assert found.mean == pytest.approx(0.6) and found.statistic == pytest.approx(0.6 / math.sqrt(1.3 / 5))
    assert found.p_value == pytest.approx(2 * stats.norm.sf(1.17670), rel=1e-4)
    assert "first 20.00 %, second 8.00 % of 25 words" in found.describe() and "not significant" in found.describe()
    assert "few: below 50" in found.describe()


def test_the_statistic_is_the_paired_t_statistic_over_segments_with_the_normal_distribution():
    references, first = random_texts(200, 0, 0.15)
    rng = np.random.default_rng(1)
    second = {key: text if rng.random() < 0.5 else references[key] for key, text in first.items()}
    found = mapsswe(references, first, second)
    pairs = np.array(
        [p for k in references for p in segment_errors(*(d[k].split() for d in (references, first, second)))]
    )
    assert found.statistic == pytest.approx(stats.ttest_rel(pairs[:, 0], pairs[:, 1]).statistic)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(found.statistic)) and found.p_value < 0.01
    assert found.segments == len(pairs) > 100 and "significant at 0.05" in found.describe()
    swapped = mapsswe(references, second, first)
    assert swapped.statistic == -found.statistic and swapped.p_value == found.p_value


def test_equal_systems_do_not_differ():
    references, first = random_texts(20, 0, 0.3)
    found = mapsswe(references, first, first)
    assert found.statistic == 0 and found.p_value == 1 and found.segments > 0
    assert mapsswe(references, references, references).segments == 0


def test_of_equally_good_systems_about_one_in_twenty_differs_significantly():
    significant = 0
    for seed in range(100):
        references = random_words(40, 1000 + seed)
        found = mapsswe(references, heard(references, 2 * seed, 0.2), heard(references, 2 * seed + 1, 0.2))
        significant += found.p_value < 0.05
    assert significant <= stats.binom.ppf(0.9999, 100, 0.05)
    references = random_words(40, 0)
    assert mapsswe(references, heard(references, 0, 0.2), heard(references, 1, 0.6)).p_value < 1e-3


def test_wrong_input_is_refused():
    with pytest.raises(
        UserError, match="second system's utterances must be the references', but 1 are not in both, such as b"
    ):
        mapsswe({"a": "x"}, {"a": "x"}, {"a": "x", "b": "y"})
    with pytest.raises(UserError, match="references are empty"):
        mapsswe({"a": ""}, {"a": "x"}, {"a": ""})
    with pytest.raises(UserError, match="differ by .1 words in each of 2 segments: no spread"):
        mapsswe({"a": "x y", "b": "x y"}, {"a": "x", "b": "x"}, {"a": "x y", "b": "x y"})


def test_mcnemar_worked_by_hand():
    """8 utterances that only one of the two has right, 1 to 7: 2 (C(8, 0) + C(8, 1)) / 2^8 = 18 / 256."""
    first = [True] * 5 + [True] + [False] * 7 + [False] * 2
    second = [True] * 5 + [False] + [True] * 7 + [False] * 2
    found = mcnemar(first, second)
    assert (found.first_only, found.second_only) == (1, 7) and found.p_value == pytest.approx(18 / 256)
    assert mcnemar(second, first).p_value == found.p_value
    assert mcnemar(first, first).p_value == 1
    even = mcnemar([True, False], [False, True])
    assert (even.first_only, even.second_only, even.p_value) == (1, 1, 1)
