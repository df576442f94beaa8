"""The four SoX effects that s3prl's tasks ask for, for a torchaudio without ``sox_effects``.

torchaudio dropped ``sox_effects`` in 2.9. Both hosts call it with these chains:

    KS, QbE   channels 1, rate 16000, gain -3.0
    SV        the same, then silence 1 0.1 0.1% -1 0.1 0.1%

``silence`` removes pauses, so a no-op in its place would change SV's data and its EER. The
semantics are those of SoX 14.4.2's manual and were compared with that program: ``channels``,
``gain`` and ``silence`` agree sample by sample (3e-8); ``rate`` is another low-pass filter with the same
pass band (95 % of Nyquist), within 1e-3 of SoX's, one sample longer at times. Any other effect, or
another form of these four, is an error: SoX would have changed the audio there, and we would not.

This module replaces ``torchaudio.sox_effects``: same names, same arguments.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch

from s3prl_pruned.config import UserError

WINDOWS_PER_SECOND = 50
"""``silence`` judges the RMS of the last 1/50 s."""


def apply_effects_file(
    path: str | os.PathLike,
    effects: Sequence[Sequence[str]],
    normalize: bool = True,
    channels_first: bool = True,
    format: str | None = None,
) -> tuple[torch.Tensor, int]:
    """Read a file and run a chain of effects.

    Args:
        path: anything that soundfile decodes.
        effects: ``[[name, argument, ...], ...]``, applied in order.
        normalize: must be True; samples are float32 in [-1, 1].
        channels_first: (C, S) when True, else (S, C).
        format: ignored; soundfile detects it.

    Returns:
        The audio, float32, and its sample rate in Hz.

    Raises:
        UserError: on an unknown effect or form of it, or a file that cannot be decoded.
    """
    from s3prl_pruned.compat.audio import load

    wav, sample_rate = load(path, normalize=normalize)  # (C, S)
    wav, sample_rate = apply_effects_tensor(wav, sample_rate, effects)
    return (wav if channels_first else wav.T), sample_rate


def apply_effects_tensor(
    tensor: torch.Tensor,
    sample_rate: int,
    effects: Sequence[Sequence[str]],
    channels_first: bool = True,
) -> tuple[torch.Tensor, int]:
    """Run a chain of effects on float32 audio, (C, S), or (S, C) without ``channels_first``.

    Returns:
        The audio in the same layout, and its sample rate in Hz.

    Raises:
        UserError: on an unknown effect or form of it.
    """
    wav = (tensor if channels_first else tensor.T).clamp(-1.0, 1.0)  # SoX clips what it reads
    for name, *arguments in effects:
        if name not in _EFFECTS:
            raise UserError(
                f"SoX effect {name!r}: not supported here. Supported are {', '.join(sorted(_EFFECTS))}; "
                "for others install a torchaudio that has sox_effects (2.8 or older)."
            )
        wav, sample_rate = _EFFECTS[name](wav, sample_rate, list(arguments))
    return (wav if channels_first else wav.T), sample_rate


def effect_names() -> list[str]:
    """The names of the supported effects."""
    return sorted(_EFFECTS)


def _channels(wav: torch.Tensor, sample_rate: int, arguments: list[str]) -> tuple[torch.Tensor, int]:
    """``channels 1``: the mean of the channels."""
    if arguments != ["1"]:
        raise _unsupported("channels", arguments, "channels 1")
    return wav.mean(dim=0, keepdim=True), sample_rate


def _rate(wav: torch.Tensor, sample_rate: int, arguments: list[str]) -> tuple[torch.Tensor, int]:
    """``rate HZ``: band-limited resampling."""
    if len(arguments) != 1 or not arguments[0].isdigit() or int(arguments[0]) == 0:
        raise _unsupported("rate", arguments, "rate HZ, HZ a positive whole number")
    from torchaudio.functional import resample

    target = int(arguments[0])
    # The "kaiser_best" filter of torchaudio's documentation: its pass band is SoX's, 95 %.
    return (
        resample(
            wav,
            sample_rate,
            target,
            lowpass_filter_width=64,
            rolloff=0.9475937167399596,
            resampling_method="sinc_interp_kaiser",
            beta=14.769656459379492,
        ),
        target,
    )


def _gain(wav: torch.Tensor, sample_rate: int, arguments: list[str]) -> tuple[torch.Tensor, int]:
    """``gain DB``: a factor of 10^(DB/20), clipped to [-1, 1] as SoX does."""
    try:
        (decibels,) = map(float, arguments)
        if not math.isfinite(decibels):
            raise ValueError
    except ValueError:
        raise _unsupported("gain", arguments, "gain DB") from None
    return (wav * 10 ** (decibels / 20)).clamp(-1.0, 1.0), sample_rate


def _silence(wav: torch.Tensor, sample_rate: int, arguments: list[str]) -> tuple[torch.Tensor, int]:
    """``silence 1 DURATION THRESHOLD% -1 DURATION THRESHOLD%``: drop every pause.

    Audio is dropped until the RMS of the last 20 ms has been above the first threshold for the
    whole first duration; from the beginning of that stretch it is kept, until the RMS has been at
    or below the second threshold for the whole second duration; that stretch is dropped, and
    the search for sound starts again with an empty window. A shorter pause, also at the end, is
    kept; sound shorter than the first duration is dropped.
    """
    form = "silence 1 SECONDS PERCENT% -1 SECONDS PERCENT%, on one channel"
    if len(arguments) != 6 or arguments[0] != "1" or arguments[3] != "-1" or wav.shape[0] != 1:
        raise _unsupported("silence", arguments, form)
    try:
        start_length, stop_length = (_num_samples(arguments[i], sample_rate) for i in (1, 4))
        start_threshold, stop_threshold = (_ratio(arguments[i]) for i in (2, 5))
    except ValueError:
        raise _unsupported("silence", arguments, form) from None

    samples = wav[0].double().numpy()
    energy, window = np.concatenate([[0.0], np.cumsum(samples**2)]), sample_rate // WINDOWS_PER_SECOND
    sound = _Stretches(energy, window, lambda rms: rms > start_threshold, start_length)
    pauses = _Stretches(energy, window, lambda rms: rms <= stop_threshold, stop_length)
    kept, position = [], 0
    while (start := sound.first(position, restart=position)) is not None:
        copied = start + start_length  # these are kept, whatever the second threshold says
        pause = pauses.first(copied, restart=position)
        kept.append(wav[0, start:pause])
        if pause is None:
            break
        position = pause + stop_length
    return torch.cat(kept or [wav[0, :0]]).unsqueeze(0), sample_rate


class _Stretches:
    """Stretches of ``length`` samples, at each of which the RMS of the last ``window`` samples passes a test.

    All searches use one running sum for the RMS, so the time that a file takes is proportional to its length.

    Args:
        energy: sum of the squares before each sample, (S + 1,).
        window: samples.
        test: of RMS values, (N,) -> (N,) bool.
        length: samples.
    """

    def __init__(self, energy: np.ndarray, window: int, test: Callable[[np.ndarray], np.ndarray], length: int) -> None:
        self.energy, self.window, self.test, self.length = energy, window, test, length
        self.starts = _runs(self._passed(0, len(energy) - 1, restart=0), length)

    def first(self, begin: int, *, restart: int) -> int | None:
        """The first sample at or after ``begin`` where a stretch starts; None where there is none.

        Args:
            begin: sample.
            restart: samples before this one count as zeros in the windows.
        """
        full = restart + self.window  # from here on a window holds no zeros, as in the search over the whole file
        if begin < full:
            near = _runs(self._passed(begin, min(full + self.length, len(self.energy) - 1), restart), self.length)
            if len(near):
                return begin + int(near[0])
            begin = full
        index = np.searchsorted(self.starts, begin)
        return int(self.starts[index]) if index < len(self.starts) else None

    def _passed(self, begin: int, end: int, restart: int) -> np.ndarray:
        """Whether each sample from ``begin`` to before ``end`` passes the test."""
        ends = np.arange(begin + 1, max(end, begin) + 1)
        energy = self.energy[ends] - self.energy[np.maximum(ends - self.window, restart)]
        return self.test(np.sqrt(np.maximum(energy, 0.0) / self.window))


def _runs(mask: np.ndarray, length: int) -> np.ndarray:
    """Every i with ``mask[i : i + length]`` all True, ascending."""
    counts = np.concatenate([[0], np.cumsum(mask)])
    return np.flatnonzero(counts[length:] - counts[: max(len(counts) - length, 0)] == length)


def _num_samples(text: str, sample_rate: int) -> int:
    # SoX reads a number with a point as seconds, one without as samples.
    samples = round(float(text) * sample_rate) if "." in text else int(text)
    if samples < 1:
        raise ValueError(text)
    return samples


def _ratio(text: str) -> float:
    if not text.endswith("%"):
        raise ValueError(text)
    return float(text[:-1]) / 100


def _unsupported(name: str, arguments: list[str], form: str) -> UserError:
    effect = " ".join([name, *map(str, arguments)])
    return UserError(f"SoX effect `{effect}`: only the form `{form}` is supported here.")


_EFFECTS: dict[str, Callable] = {
    "channels": _channels,
    "rate": _rate,
    "gain": _gain,
    "silence": _silence,
}
