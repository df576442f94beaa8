"""Significance tests: matched pairs (MAPSSWE) for word error rates, McNemar's test for accuracies.

Matched pairs, sentence segment word error: Gillick and Cox 1989, "Some statistical issues in the comparison of speech
recognition algorithms", as in NIST's scoring: two systems recognise the same utterances. The text is cut wherever both
recognise at least two reference words in a row correctly; the parts between two cuts are segments, whose errors are
taken as independent. Over the segments with errors, the difference of the two systems' errors Z_i is tested for
mean 0:

    W = mean(Z) / (sd(Z) / sqrt(n))        n segments, sd with n - 1; two-sided, W ~ N(0, 1)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from s3prl_pruned.config import UserError

WORDS_BETWEEN = 2
"""Words in a row, correct in both systems, that separate two segments (as in NIST's scoring)."""

ENOUGH_SEGMENTS = 50
"""With fewer segments the normal approximation is rough (Gillick and Cox require n to be large)."""


@dataclass(frozen=True)
class MatchedPairs:
    """Two systems on one test set."""

    errors: tuple[int, int]
    """Word errors of each system."""
    words: int
    """Number of reference words."""
    segments: int
    """Segments in which at least one system has errors."""
    mean: float
    """Mean difference of errors per segment, first minus second."""
    statistic: float
    """W; 0 if the systems have equally many errors in every segment."""
    p_value: float
    """Two-sided p-value."""

    def describe(self, names: tuple[str, str] = ("first", "second")) -> str:
        """One line for a report."""
        rates = [f"{name} {100 * errors / self.words:.2f} %" for name, errors in zip(names, self.errors, strict=True)]
        few = "" if self.segments >= ENOUGH_SEGMENTS else f" (few: below {ENOUGH_SEGMENTS} the test is rough)"
        verdict = "significant" if self.p_value < 0.05 else "not significant"
        return (
            f"WER: {', '.join(rates)} of {self.words} words; MAPSSWE: {self.segments} segments{few}, "
            f"W = {self.statistic:+.2f}, p = {self.p_value:.3f}: {verdict} at 0.05"
        )


@dataclass(frozen=True)
class Disagreement:
    """Two classifiers on one test set: where exactly one of them is right."""

    first_only: int
    second_only: int
    p_value: float
    """Two-sided p-value."""


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> Disagreement:
    """McNemar's exact test: if the systems are equal, which of them is right where they differ is a coin toss.

    McNemar 1947, "Note on the sampling error of the difference between correlated proportions"; used by Gillick
    and Cox 1989 for isolated words.

    Args:
        first: whether one system was right, by utterance.
        second: likewise for the other system, on the same utterances.
    """
    from scipy.stats import binomtest  # imported here: it takes a second, too long for a score table

    pairs = list(zip(first, second, strict=True))
    alone = (sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))
    return Disagreement(*alone, float(binomtest(alone[0], sum(alone)).pvalue) if sum(alone) else 1.0)


def mapsswe(references: Mapping[str, str], first: Mapping[str, str], second: Mapping[str, str]) -> MatchedPairs:
    """Compare two systems' hypotheses by the matched-pairs test.

    Args:
        references: text by utterance.
        first: one system's text of the same utterances.
        second: the other system's.

    Raises:
        UserError: if the utterances differ, or there is nothing to score.
    """
    for name, hypotheses in (("first", first), ("second", second)):
        if hypotheses.keys() != references.keys():
            other = sorted(hypotheses.keys() ^ references.keys())
            raise UserError(
                f"the {name} system's utterances must be the references', but {len(other)} are not in both, such as "
                f"{other[0]}."
            )
    words = sum(len(text.split()) for text in references.values())
    if not words:
        raise UserError("the references are empty; there is nothing to score.")
    pairs = []
    for key, reference in references.items():
        pairs += segment_errors(reference.split(), first[key].split(), second[key].split())
    errors = (sum(a for a, _ in pairs), sum(b for _, b in pairs))
    z = np.array([a - b for a, b in pairs], dtype=float)
    mean = float(z.mean()) if len(z) else 0.0
    deviation = float(z.std(ddof=1)) if len(z) > 1 else 0.0
    if mean and not deviation:
        raise UserError(
            f"the systems differ by {mean:+g} words in each of {len(z)} segments: no spread, so no test. Use more "
            "speech."
        )
    statistic = mean / (deviation / math.sqrt(len(z))) if mean else 0.0
    return MatchedPairs(errors, words, len(z), mean, statistic, math.erfc(abs(statistic) / math.sqrt(2)))


def segment_errors(reference: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    """Errors of both systems in each segment of one utterance, from the first segment with an error to the last."""
    a, b = align_errors(reference, first), align_errors(reference, second)
    segments: list[tuple[int, int]] = []
    correct = WORDS_BETWEEN  # in a row, up to here; an utterance's start separates segments too
    for place, (error_a, error_b) in enumerate(zip(a, b, strict=True)):
        is_word = place % 2 == 1
        if error_a or error_b:
            if correct >= WORDS_BETWEEN or not segments:
                segments.append((0, 0))
            segments[-1] = (segments[-1][0] + error_a, segments[-1][1] + error_b)
            correct = 0
        elif is_word:
            correct += 1
    return segments


def align_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> list[int]:
    """The positions of a hypothesis's errors, by a minimum-edit alignment: (2 N + 1,) for N reference words.

    Entry 2 i + 1 is 1 if word i is substituted or deleted; entry 2 i counts words inserted before word i, the last
    entry words inserted at the end. The entries sum to the edit distance. Of equally good alignments, the one that
    keeps words together at the front is used.
    """
    n, m = len(reference), len(hypothesis)
    # cost[i, j]: edits of the rest, from reference word i and hypothesis word j on
    cost = np.zeros((n + 1, m + 1), dtype=int)
    cost[:, m], cost[n, :] = np.arange(n, -1, -1), np.arange(m, -1, -1)
    for i in range(n - 1, -1, -1):
        for j in range(m - 1, -1, -1):
            same = reference[i] == hypothesis[j]
            cost[i, j] = min(cost[i + 1, j + 1] + (not same), cost[i + 1, j] + 1, cost[i, j + 1] + 1)
    errors, i, j = [0] * (2 * n + 1), 0, 0
    while i < n or j < m:
        if i < n and j < m and cost[i, j] == cost[i + 1, j + 1] + (reference[i] != hypothesis[j]):
            errors[2 * i + 1] = int(reference[i] != hypothesis[j])
            i, j = i + 1, j + 1
        elif i < n and cost[i, j] == cost[i + 1, j] + 1:
            errors[2 * i + 1] = 1
            i += 1
        else:
            errors[2 * i] += 1
            j += 1
    return errors
