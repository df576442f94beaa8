"""The equal error rate, compared with brute force, s3prl's own function, and cases worked by hand."""

from itertools import pairwise

import numpy as np
import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.objectives.eer import equal_error_rate
from s3prl_pruned.superb.metrics.eer import score_predictions


def trials(seed, count=200, gap=1.0, digits=1):
    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, 2, count), [0, 1])
    return labels, np.round(rng.normal(size=len(labels)) + gap * labels, digits)


def crossing(labels, scores):
    """Walk along the curve in a million steps from point to point; no library, no algebra."""
    points = [(0.0, 1.0)]
    for threshold in sorted(set(scores), reverse=True):
        accepted = scores >= threshold
        points.append(
            (
                (accepted & (labels == 0)).sum() / (labels == 0).sum(),
                (~accepted & (labels == 1)).sum() / (labels == 1).sum(),
            )
        )
    for (fa, fr), (next_fa, next_fr) in pairwise(points):
        if next_fr <= next_fa:
            steps = np.linspace(0, 1, 100_001)
            gaps = np.abs((fr + steps * (next_fr - fr)) - (fa + steps * (next_fa - fa)))
            return fa + steps[gaps.argmin()] * (next_fa - fa)
    raise AssertionError("the curve ends at (1, 0)")


@pytest.mark.parametrize("seed", range(5))
def test_eer_is_where_the_curve_crosses_the_diagonal(seed):
    labels, scores = trials(seed)
    assert equal_error_rate(labels, scores) == pytest.approx(crossing(labels, scores), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_eer_equals_the_one_that_s3prl_prints(seed):
    pytest.importorskip("sklearn", reason="s3prl's sv_voxceleb1 needs it")
    from s3prl.downstream.sv_voxceleb1.utils import EER

    for gap in (-0.5, 0.0, 1.0, 3.0):
        labels, scores = trials(seed, gap=gap, digits=1 + seed % 2)
        assert equal_error_rate(labels, scores) == pytest.approx(EER(labels, scores)[0], abs=1e-9)
    labels, scores = trials(seed)
    scores[labels == 1] += 0.5
    assert equal_error_rate(labels, scores) != pytest.approx(EER(*trials(seed))[0], abs=1e-3)


def test_cases_worked_by_hand():
    assert equal_error_rate([1, 1, 0, 0], [4, 3, 2, 1]) == 0
    assert equal_error_rate([0, 0, 1, 1], [4, 3, 2, 1]) == 1
    assert equal_error_rate([1, 0, 1, 0], [4, 3, 2, 1]) == 0.5
    assert equal_error_rate([1, 0, 1, 0], [1, 1, 1, 1]) == 0.5  # all equal: the straight line from (0, 1) to (1, 0)
    # One of four targets below one of four non-targets: accept above it, and 1/4 of each is wrong.
    assert equal_error_rate([1, 1, 1, 0, 1, 0, 0, 0], [8, 7, 6, 5, 4, 3, 2, 1]) == 0.25


def test_what_cannot_be_scored_is_refused():
    for labels, scores, message in [
        ([1, 1], [0.1, 0.2], "both must occur"),
        ([0, 2], [0.1, 0.2], "must be 0 and 1"),
        ([0, 1], [0.1, np.nan], "must be finite, but 1 are not"),
        ([0, 1], [0.1], "must have one length"),
    ]:
        with pytest.raises(UserError, match=message):
            equal_error_rate(labels, scores)


def sv_run(folder, scores=(0.9, 0.1, 0.8, 0.3)):
    """``test_predict.txt`` as s3prl writes it, and VoxCeleb's trials."""
    pairs = [("1", "id1/v/00001.wav", "id1/w/00001.wav"), ("0", "id1/v/00001.wav", "id2/v/00001.wav"),
             ("1", "id2/v/00001.wav", "id2/v/00002.wav"), ("0", "id2/v/00002.wav", "id1/w/00001.wav")]  # fmt: skip
    (folder / "trials.txt").write_text("".join(" ".join(pair) + "\n" for pair in pairs))
    # s3prl names a pair by the last three parts of each path, up to the first dot.
    names = ["_".join(path.replace("/", "-")[:-4] for path in pair[1:]) for pair in pairs]
    (folder / "test_predict.txt").write_text("".join(f"{name} {score}\n" for name, score in zip(names, scores)))
    return folder / "test_predict.txt", folder / "trials.txt"


def test_predictions_are_scored_with_the_labels_of_the_trials(tmp_path):
    assert score_predictions(*sv_run(tmp_path)) == 0
    assert score_predictions(*sv_run(tmp_path, scores=(0.2, 0.9, 0.8, 0.1))) == 0.5


def test_predictions_of_other_or_half_the_trials_are_refused(tmp_path):
    predictions, list_of_trials = sv_run(tmp_path)
    text = predictions.read_text()
    for changed, message in [
        (text[: text.index("\n") + 1], "holds 1 for 4, 0 of them unknown"),
        (
            text.replace("id1-v-00001_id2", "id7-v-00001_id2"),
            "holds 4 for 4, 1 of them unknown .id7-v-00001_id2-v-00001",
        ),
        (text.replace("0.9", "nan"), "every score must be finite"),
        (text.replace("0.9", "high"), "must end in a number"),
        ("", "is empty"),
    ]:
        predictions.write_text(changed)
        with pytest.raises(UserError, match=message):
            score_predictions(predictions, list_of_trials)
    predictions.write_text(text)
    list_of_trials.write_text(list_of_trials.read_text() + "0 id1/v/00001.wav id1/w/00001.wav\n")
    with pytest.raises(UserError, match="is labelled both 0 and 1"):
        score_predictions(predictions, list_of_trials)
