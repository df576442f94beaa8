"""The equal error rate (EER) of verification. Without torch, so that the score calculator starts quickly."""

import numpy as np

from s3prl_pruned.config import UserError


def equal_error_rate(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The error rate at the threshold where the false acceptance rate equals the false rejection rate, a fraction.

    The benchmark's definition (s3prl's ``sv_voxceleb1/utils.py``): the point of the receiver operating characteristic,
    linear between its points, where the false acceptance rate equals the false rejection rate.

    Args:
        labels: N trials, 1 where both utterances are from the same speaker, else 0.
        scores: N; a higher score means more likely the same speaker. Equal scores are accepted together.
        weights: N; how often each trial counts, above 0; None: once.

    Raises:
        UserError: if the lengths differ, a score is not finite, a label is not 0 or 1, or one of the labels is missing.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.shape != scores.shape or labels.ndim != 1:
        raise UserError(f"EER: labels and scores must have one length, but have {labels.shape} and {scores.shape}.")
    if not np.isfinite(scores).all():
        raise UserError(f"EER: every score must be finite, but {(~np.isfinite(scores)).sum()} are not.")
    if not np.array_equal(np.unique(labels), [0, 1]):
        raise UserError(f"EER: labels must be 0 and 1, and both must occur, but they are {np.unique(labels)[:5]}.")
    order = np.argsort(-scores, kind="stable")
    descending, is_target = scores[order], labels[order] == 1
    times = np.ones(len(order)) if weights is None else np.asarray(weights, dtype=float)[order]
    targets, others = times * is_target, times * ~is_target
    last = np.append(descending[1:] != descending[:-1], True)
    # From accepting nothing to accepting everything.
    accepted = np.append(0, np.cumsum(others)[last]) / others.sum()
    rejected = 1 - np.append(0, np.cumsum(targets)[last]) / targets.sum()
    gap = rejected - accepted  # falls strictly from 1 to -1
    after = int(np.argmax(gap <= 0))
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(accepted[after - 1] + share * (accepted[after] - accepted[after - 1]))
