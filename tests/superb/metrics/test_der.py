"""The diarization error rate, compared with frames counted under every assignment, spyder, scipy, and by hand."""

from itertools import permutations

import numpy as np
import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.metrics.der import (
    MEDIANS,
    THRESHOLDS,
    diarization_error,
    read_rttm,
    score_run,
    search,
    turns_of,
)  # fmt: skip


def random_turns(rng, speakers):
    """Overlapping turns in whole milliseconds; turns of the same speaker may overlap too."""
    begins = rng.integers(0, 4000, (speakers, 3)) / 1000
    lengths = rng.integers(1, 1500, (speakers, 3)) / 1000
    return [(f"s{i}", b, round(b + d, 3)) for i in range(speakers) for b, d in zip(begins[i], lengths[i])]


def frames(turns):
    """(speakers, milliseconds)."""
    names = sorted({name for name, _, _ in turns})
    table = np.zeros((len(names), 6000), dtype=int)
    for name, begin, end in turns:
        table[names.index(name), round(begin * 1000) : round(end * 1000)] = 1
    return table


def counted(reference, hypothesis):
    """Errors in seconds under the best of all assignments: the NIST definition on a grid of milliseconds."""
    ref, hyp = frames(reference), frames(hypothesis)
    size = max(len(ref), len(hyp))
    ref, hyp = (np.pad(table, ((0, size - len(table)), (0, 0))) for table in (ref, hyp))
    correct = max(sum((ref[i] & hyp[j]).sum() for i, j in enumerate(order)) for order in permutations(range(size)))
    return (np.maximum(ref.sum(0), hyp.sum(0)).sum() - correct) / 1000


@pytest.mark.parametrize("seed", range(10))
def test_der_is_the_count_of_wrong_frames_under_the_best_assignment(seed):
    rng = np.random.default_rng(seed)
    reference, hypothesis = random_turns(rng, 1 + seed % 3), random_turns(rng, 1 + seed % 4)
    error = diarization_error(reference, hypothesis)
    assert error.total == pytest.approx(frames(reference).sum() / 1000)
    expected = counted(reference, hypothesis)
    assert error.missed + error.false_alarm + error.confused == pytest.approx(expected, abs=1e-9)
    moved = [(name, begin + 0.25, end + 0.25) for name, begin, end in hypothesis]
    assert error.rate != pytest.approx(diarization_error(reference, moved).rate, abs=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_der_equals_spyders(seed):
    spyder = pytest.importorskip("spyder", reason="the independent library; needs a compiler")
    rng = np.random.default_rng(seed)
    reference = [(name, 5 * i + b, 5 * i + b + 0.5) for i, (name, b, _) in enumerate(random_turns(rng, 2))]
    hypothesis = [(name, 5 * i + b, 5 * i + b + 0.6) for i, (name, b, _) in enumerate(random_turns(rng, 3))][:7]
    expected = spyder.DER(reference, hypothesis)
    error = diarization_error(reference, hypothesis)
    assert error.rate == pytest.approx(expected.der, rel=1e-5)
    assert (error.missed / error.total, error.false_alarm / error.total, error.confused / error.total) == pytest.approx(
        (expected.miss, expected.falarm, expected.conf), abs=1e-5
    )


def test_a_case_worked_by_hand():
    # a speaks 0-10, b 8-12. The system calls 0-6 x, 6-12 y.
    reference = [("a", 0, 10), ("b", 8, 12)]
    hypothesis = [("x", 0, 6), ("y", 6, 12)]
    error = diarization_error(reference, hypothesis)
    # a is x, b is y: 6-8 is confused, and one speaker of the overlap 8-10 is missed.
    assert (error.total, error.missed, error.false_alarm, error.confused) == (14, 2, 0, 2)
    assert error.rate == pytest.approx(4 / 14)
    nothing = diarization_error(reference, [])
    assert nothing.rate == 1 and nothing.missed == 14
    noise = diarization_error(reference, [*reference, ("z", 0, 30)])
    assert noise.rate == pytest.approx(30 / 14)  # may exceed 1
    both = error + nothing
    assert both.total == 28 and both.rate == pytest.approx((4 + 14) / 28)  # pooled by time, not a mean of rates


def test_turns_are_smoothed_and_rounded_as_in_s3prls_rttm():
    from scipy.signal import medfilt

    rng = np.random.default_rng(0)
    posteriors = rng.random((83, 2))
    for median in (1, 3, 11):
        binary = (posteriors > 0.45).astype(float)
        smoothed = medfilt(binary, (median, 1)) if median > 1 else binary  # make_rttm.py's own filter
        turns = turns_of(posteriors, threshold=0.45, median=median, frame_shift=320)
        found = np.zeros_like(smoothed)
        for speaker, begin, end in turns:
            found[round(begin / 0.02) : round(end / 0.02), int(speaker)] = 1
        assert np.array_equal(found, smoothed)
    # 12.5 ms frames: begin and length are each rounded as by "%.2f".
    odd = turns_of(np.array([[0], [1], [1], [1], [0]]), threshold=0.5, median=1, frame_shift=200)
    assert odd == [("0", 0.01, pytest.approx(0.01 + 0.04))]
    with pytest.raises(UserError, match="odd number of frames, but has 4"):
        turns_of(posteriors, threshold=0.5, median=4, frame_shift=320)


def sd_run(folder, posteriors, frame_shift="320\n"):
    """The files of an evaluation by s3prl's diarization: ``frame_shift`` and one HDF5 per recording, ``T_hat``."""
    h5py = pytest.importorskip("h5py", reason="s3prl's diarization writes with it")
    (folder / "scoring" / "predictions").mkdir(parents=True)
    (folder / "frame_shift").write_text(frame_shift)
    for name, table in posteriors.items():
        with h5py.File(folder / "scoring" / "predictions" / f"{name}.h5", "w") as file:
            file.create_dataset("T_hat", data=np.asarray(table, dtype=np.float32))
    return folder


def test_the_lowest_over_thresholds_and_medians_is_reported_with_its_setting(tmp_path):
    posteriors = np.full((200, 2), 0.1)
    posteriors[:100, 0] = 0.65  # speech that only the lower thresholds find
    posteriors[100:, 1] = 0.95
    posteriors[50, 0] = 0.2  # a gap of one frame, which the filter closes
    (tmp_path / "rttm").write_text(
        "SPEAKER r 1 0.00 2.00 <NA> <NA> one <NA> <NA>\nSPEAKER r 1 2.00 2.00 <NA> <NA> two <NA>\n"
    )
    found = score_run(sd_run(tmp_path / "run", {"r": posteriors}), tmp_path / "rttm")
    assert (found.der, found.threshold, found.median, found.num_recordings) == (0, 0.3, 11, 1)
    assert len(found.errors) == len(THRESHOLDS) * len(MEDIANS) == 10
    assert found.errors[0.5, 1].rate == pytest.approx(0.02 / 4) and found.errors[0.7, 11].rate == pytest.approx(0.5)


def test_half_a_run_and_another_reference_are_refused(tmp_path):
    speech = np.ones((100, 2))
    rttm = tmp_path / "rttm"
    rttm.write_text("SPEAKER r 1 0.0 1.0 <NA> <NA> a <NA> <NA>\nSPEAKER q 1 0.0 1.0 <NA> <NA> a <NA> <NA>\n")
    run = sd_run(tmp_path / "half", {"r": speech})
    with pytest.raises(UserError, match=r"have the same recordings, but 1 are in one of them only \(q\)"):
        score_run(run, rttm)
    (run / "frame_shift").unlink()
    with pytest.raises(UserError, match="frame_shift: must hold the samples between two frames"):
        score_run(run, rttm)
    (run / "scoring" / "predictions" / "r.h5").write_bytes(b"half")
    with pytest.raises(UserError, match="r.h5: holds no predictions .* Evaluate the run again"):
        score_run(run, rttm)
    with pytest.raises(UserError, match="must hold frames x speakers of probabilities"):
        score_run(sd_run(tmp_path / "logits", {"r": 3 * speech}), rttm)
    with pytest.raises(UserError, match="holds no .*h5"):
        score_run(sd_run(tmp_path / "empty", {}), rttm)
    with pytest.raises(UserError, match="the reference holds no speech"):
        search({"r": speech}, {"r": []}, frame_shift=320)


@pytest.mark.parametrize(
    "line", ["SPEAKER r 1 nan 1.0 <NA> <NA> a <NA>", "SPEAKER r 1 0.0 -1 <NA> <NA> a", "SPEAKER r 1 0.0"]
)
def test_a_damaged_turn_is_refused_by_its_line(tmp_path, line):
    (tmp_path / "rttm").write_text(f"SPKR-INFO r 1 <NA>\n{line}\n")
    with pytest.raises(UserError, match="line 2 must be a turn"):
        read_rttm(tmp_path / "rttm")
