"""SD: the diarization error rate (DER) as the benchmark scores it, from s3prl's ``scoring/predictions/*.h5``.

The benchmark's recipe (s3prl's ``diarization/score.sh`` and ``make_rttm.py``) has three parts, all done here:

1. posteriors above a threshold (0.3, 0.4, 0.5, 0.6, 0.7) are speech of that speaker, smoothed by a median filter
   (1 or 11 frames);
2. they are written as turns in hundredths of a second;
3. dscore scores them: collar 0, overlapped speech included, the whole recording, all recordings pooled by time.

The lowest of the ten DERs is reported. dscore calls NIST's md-eval-22.pl, a Perl program; here the third part is
computed in Python:

    DER = (missed + false alarm + confused speaker time) / speaker time in the reference

under the one-to-one assignment of speakers with the longest agreement. pyannote.metrics and spyder use the same
definition; this module needs neither of them nor a compiler, and the tests compare it with spyder where that is
installed. On random turns it printed the same numbers as md-eval-22.pl for all ten settings.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s3prl_pruned.config import UserError

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
MEDIANS = (1, 11)
SAMPLE_RATE = 16000

Turn = tuple[str, float, float]
"""Speaker, begin and end in seconds."""


@dataclass(frozen=True, kw_only=True)
class DiarizationError:
    """Speaker time in seconds: two speakers at once count twice."""

    total: float = 0.0
    """Speaker time in the reference."""
    missed: float = 0.0
    false_alarm: float = 0.0
    confused: float = 0.0

    @property
    def rate(self) -> float:
        """The diarization error rate, a fraction; may exceed 1.

        Raises:
            UserError: if the reference holds no speech.
        """
        if self.total == 0:
            raise UserError("DER: the reference holds no speech; there is nothing to score.")
        return (self.missed + self.false_alarm + self.confused) / self.total

    def __add__(self, other: DiarizationError) -> DiarizationError:
        return DiarizationError(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class DerSearch:
    """What the search over thresholds and median filters found."""

    der: float
    """The lowest DER, a fraction."""
    threshold: float
    median: int
    """Frames of the median filter; 1: no filter."""
    errors: dict[tuple[float, int], DiarizationError]
    """The error of all recordings by threshold and median."""
    recordings: dict[str, DiarizationError]
    """The error of each recording, with the settings of the lowest DER."""

    @property
    def num_recordings(self) -> int:
        """Number of scored recordings."""
        return len(self.recordings)


def score_run(run: Path, reference: Path) -> DerSearch:
    """The lowest DER of a run of s3prl's ``diarization`` that was evaluated on the test set.

    Args:
        run: folder that holds ``frame_shift`` and ``scoring/predictions/*.h5``.
        reference: the test set's ``rttm`` file.

    Raises:
        UserError: if a file is missing or damaged, or predictions and reference have different recordings.
    """
    return search(read_predictions(run), read_rttm(reference), frame_shift=read_frame_shift(run))


def search(
    posteriors: Mapping[str, np.ndarray],
    references: Mapping[str, Iterable[Turn]],
    *,
    frame_shift: int,
    thresholds: Iterable[float] = THRESHOLDS,
    medians: Iterable[int] = MEDIANS,
) -> DerSearch:
    """The lowest DER over thresholds and median filters.

    Args:
        posteriors: by recording, (T frames, S speakers), in [0, 1].
        references: turns by recording.
        frame_shift: samples at 16 kHz from one frame to the next.
        thresholds: thresholds of the posteriors.
        medians: lengths of the median filters in frames.

    Raises:
        UserError: if the two have different recordings, or the reference holds no speech.
    """
    if posteriors.keys() != references.keys():
        alone = sorted(posteriors.keys() ^ references.keys())
        raise UserError(
            f"DER: predictions and reference must have the same recordings, but {len(alone)} are in one of them "
            f"only ({', '.join(alone[:3])}). Evaluate again on the whole test set."
        )
    each: dict[tuple[float, int], dict[str, DiarizationError]] = {}
    for median in medians:
        for threshold in thresholds:
            each[threshold, median] = {
                name: diarization_error(
                    references[name], turns_of(frames, threshold=threshold, median=median, frame_shift=frame_shift)
                )
                for name, frames in posteriors.items()
            }
    errors = {setting: sum(found.values(), DiarizationError()) for setting, found in each.items()}
    threshold, median = min(errors, key=lambda setting: errors[setting].rate)
    return DerSearch(
        der=errors[threshold, median].rate, threshold=threshold, median=median, errors=errors,
        recordings=each[threshold, median],
    )  # fmt: skip


def turns_of(posteriors: np.ndarray, *, threshold: float, median: int, frame_shift: int) -> list[Turn]:
    """Turn posteriors into turns; begin and length are rounded to hundredths of a second as in s3prl's RTTM.

    Args:
        posteriors: (T frames, S speakers).
        threshold: posteriors above it are speech.
        median: length of the median filter, an odd number of frames; outside the recording is silence.
        frame_shift: samples at 16 kHz from one frame to the next.
    """
    if median < 1 or median % 2 == 0:
        raise UserError(f"DER: the median filter must have an odd number of frames, but has {median}.")
    seconds = frame_shift / SAMPLE_RATE
    turns = []
    for speaker, speaks in enumerate((posteriors > threshold).T):
        if median > 1 and len(speaks):
            # The median of zeros and ones is their majority.
            around = np.pad(speaks.astype(int), median // 2)
            speaks = np.convolve(around, np.ones(median, dtype=int), "valid") > median // 2
        changes = np.flatnonzero(np.diff(np.pad(speaks.astype(int), 1)))
        for begin, end in zip(changes[::2], changes[1::2], strict=True):
            # Rounded by formatting as text, as when the RTTM is written: numpy rounds ties differently.
            onset, duration = (float(f"{frames * seconds:.2f}") for frames in (begin, end - begin))
            turns.append((str(speaker), onset, onset + duration))
    return turns


def diarization_error(reference: Iterable[Turn], hypothesis: Iterable[Turn]) -> DiarizationError:
    """The errors of one recording; no collar, overlapped speech included.

    Args:
        reference: turns. Overlapping or touching turns of one speaker are merged.
        hypothesis: likewise.
    """
    from scipy.optimize import linear_sum_assignment  # imported here: it takes a second, too long for a score table

    reference, hypothesis = list(reference), list(hypothesis)
    times = np.unique([time for _, *ends in (*reference, *hypothesis) for time in ends])
    if len(times) < 2:
        return DiarizationError()
    wanted, found = (_activity(turns, times) for turns in (reference, hypothesis))  # (speakers, segments)
    lengths = np.diff(times)
    num_wanted, num_found = wanted.sum(axis=0), found.sum(axis=0)
    together = (wanted * lengths) @ found.T  # (reference speakers, hypothesis speakers), seconds
    agreed = together[linear_sum_assignment(together, maximize=True)].sum()
    return DiarizationError(
        total=float(num_wanted @ lengths),
        missed=float(np.maximum(num_wanted - num_found, 0) @ lengths),
        false_alarm=float(np.maximum(num_found - num_wanted, 0) @ lengths),
        confused=max(0.0, float(np.minimum(num_wanted, num_found) @ lengths - agreed)),
    )


def _activity(turns: list[Turn], times: np.ndarray) -> np.ndarray:
    """Who speaks between two neighbouring times: speakers x segments, 0 or 1."""
    speakers = sorted({speaker for speaker, _, _ in turns})
    active = np.zeros((len(speakers), len(times) - 1), dtype=int)
    for speaker, begin, end in turns:
        active[speakers.index(speaker), np.searchsorted(times, begin) : np.searchsorted(times, end)] = 1
    return active


def read_rttm(path: Path) -> dict[str, list[Turn]]:
    """Turns by recording, from ``SPEAKER recording channel begin duration <NA> <NA> speaker <NA>`` lines.

    Raises:
        UserError: if the file is unreadable, a line is damaged, or there are no turns.
    """
    turns = defaultdict(list)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        try:
            begin, duration = float(fields[3]), float(fields[4])
            speaker = fields[7]
        except (ValueError, IndexError):
            begin, duration, speaker = math.nan, math.nan, ""
        if not (math.isfinite(begin) and math.isfinite(duration) and begin >= 0 and duration >= 0):
            raise UserError(f"{path}: line {number} must be a turn with a begin and a duration, but is {line!r}.")
        turns[fields[1]].append((speaker, begin, begin + duration))
    if not turns:
        raise UserError(f"{path}: holds no SPEAKER lines.")
    return dict(turns)


def read_frame_shift(run: Path) -> int:
    """Samples from one predicted frame to the next, as s3prl's ``diarization`` writes them in its folder.

    Raises:
        UserError: if the file is missing or holds no positive number. (s3prl's script then assumes 160,
            which is wrong for upstreams of 20 ms frames.)
    """
    path = run / "frame_shift"
    try:
        shift = int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: must hold the samples between two frames, such as 320 ({error}).") from error
    if shift <= 0:
        raise UserError(f"{path}: must hold a positive number of samples, but holds {shift}.")
    return shift


def read_predictions(run: Path) -> dict[str, np.ndarray]:
    """The posteriors of each recording, (T frames, S speakers), from ``scoring/predictions/<recording>.h5``.

    Raises:
        UserError: if there are none, h5py is missing, or a file is damaged or holds no probabilities.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError("DER: reading s3prl's predictions needs h5py (pip install h5py).") from error
    folder = run / "scoring" / "predictions"
    posteriors = {}
    for path in sorted(folder.glob("*.h5")):
        try:
            with h5py.File(path, "r") as file:
                frames = np.asarray(file["T_hat"][:])
        except (OSError, KeyError, TypeError) as error:
            raise UserError(f"{path}: holds no predictions ({error}). Evaluate the run again.") from error
        if frames.ndim != 2 or not ((frames >= 0) & (frames <= 1)).all():
            raise UserError(f"{path}: must hold frames x speakers of probabilities, but {frames.shape} are not.")
        posteriors[path.stem] = frames
    if not posteriors:
        raise UserError(f"{folder}: holds no *.h5. Evaluate the run on the test set (-m evaluate) first.")
    return posteriors
