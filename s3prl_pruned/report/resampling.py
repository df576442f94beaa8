"""Confidence intervals of a test set's metric by the bootstrap: its pieces are resampled many times.

A piece is an utterance, a recording, a query, or in verification a speaker: a unit that was sampled independently.
Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 13 (percentile intervals) and 16. Two systems
are compared on the same draws, so that pieces that are hard for both do not blur their difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from s3prl_pruned.objectives.eer import equal_error_rate
from s3prl_pruned.superb.metrics.mtwv import BETA

REPLICATES = 2_000
_AT_ONCE = 100  # draws whose weights are in memory at once

Statistic = Callable[[np.ndarray], np.ndarray]
"""Maps how often each piece was drawn, (R, N), to the metric of each draw in percent, (R,)."""


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """One system's test set in pieces."""

    pieces: tuple[str, ...]
    """Sorted names of the N pieces."""
    kind: str
    """The kind of pieces, in the plural."""
    statistic: Statistic

    def value(self) -> float:
        """The metric of the test set itself, in percent."""
        return float(self.statistic(np.ones((1, len(self.pieces))))[0])

    def draws(self, replicates: int = REPLICATES, *, seed: int = 0) -> np.ndarray:
        """The metric of resampled sets in percent, (R,). Sets with the same N pieces get the same draws."""
        generator, count = np.random.default_rng(seed), len(self.pieces)
        found = []
        for start in range(0, replicates, _AT_ONCE):
            size = min(_AT_ONCE, replicates - start)
            found.append(self.statistic(generator.multinomial(count, np.full(count, 1 / count), size=size)))
        return np.concatenate(found)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval. Draws without a value (NaN) are left out."""
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)


def p_value(differences: np.ndarray) -> float:
    """Two-sided p-value: how often the difference of two systems (R,) falls on the other side of 0.

    Both tails count the observed set itself, so that p is never 0 (Davison and Hinkley 1997, equation 4.11).
    """
    known = differences[~np.isnan(differences)]
    tails = [(1 + np.count_nonzero(side)) / (1 + len(known)) for side in (known <= 0, known >= 0)]
    return float(min(1.0, 2 * min(tails)))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Statistic:
    """A rate of sums: errors over units, or a mean where all denominators are 1.

    Args:
        numerators: numerators of N pieces.
        denominators: their denominators, not all 0.
    """
    over, under = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    return lambda weights: 100 * (weights @ over) / (weights @ under)


def verification(labels: np.ndarray, scores: np.ndarray, speakers: np.ndarray) -> Statistic:
    """The equal error rate of trials of two speakers each, resampled by speaker.

    A trial's weight is the product of its two speakers' counts; the weight of a trial of one speaker is that speaker's
    count (Owen 2007, "The pigeonhole bootstrap"). A draw without trials of one kind has no rate, NaN.

    Args:
        labels: labels of N trials, 1 where both utterances are from the same speaker, else 0.
        scores: scores of the trials, (N,).
        speakers: speakers of the trials, (N, 2), numbered from 0.
    """
    same = speakers[:, 0] == speakers[:, 1]

    def rates(weights: np.ndarray) -> np.ndarray:
        found = []
        for drawn in weights:
            times = np.where(same, drawn[speakers[:, 0]], drawn[speakers[:, 0]] * drawn[speakers[:, 1]])
            kept = times > 0
            both_kinds = len(np.unique(labels[kept])) == 2
            rate = equal_error_rate(labels[kept], scores[kept], times[kept]) if both_kinds else np.nan
            found.append(100 * rate)
        return np.array(found)

    return rates


def term_weighted(scores: np.ndarray, occurs: np.ndarray, *, lowest: float) -> Statistic:
    """The maximum term-weighted value (`superb/metrics/mtwv.py`), resampled by query.

    Args:
        scores: (Q queries, U utterances); NaN where the system has no score.
        occurs: (Q, U), bool; every query occurs in at least one utterance, and none in all.
        lowest: score of trials without a score. Detecting these too is never best: it accepts every false alarm.
    """
    known = ~np.isnan(scores) & (np.nan_to_num(scores, nan=lowest) > lowest)
    occurrences = occurs.sum(axis=1, keepdims=True)
    gain = np.where(occurs, 1 / occurrences, -BETA / (occurs.shape[1] - occurrences))[known]  # of detecting it
    query = np.nonzero(known)[0]
    order = np.argsort(-scores[known], kind="stable")
    gain, query, descending = gain[order], query[order], scores[known][order]
    last = np.append(descending[1:] != descending[:-1], True)  # equal scores are detected together

    def values(weights: np.ndarray) -> np.ndarray:
        best = [max(0.0, float(np.cumsum(gain * drawn[query])[last].max(initial=0.0))) for drawn in weights]
        return 100 * np.array(best) / weights.sum(axis=1)

    return values
