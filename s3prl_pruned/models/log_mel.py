"""The log-mel spectrum as front end, and the convolutions over it (Radford et al. 2023, section 2.2)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_pruned.models.cnn import FeatureExtractor
from s3prl_pruned.models.components import exporting
from s3prl_pruned.models.shape import MEL_HOP, EncoderConfig
from s3prl_pruned.models.windows import cut, join

MEL_WINDOW = 400
"""Samples in a frame of the spectrum, 25 ms, under a Hann window."""
MEL_SAMPLE_RATE = 16_000
LOUD = 8
"""Dynamic range of a window in decades: values further below its maximum are raised to this limit."""


class LogMel(nn.Module):
    """Whisper's log-mel spectrum of M bins: (B, S) -> (B, M, frames); log10 of power, about -1 to 1.

    Computed in fp32 at least. Its two matrices are constants in fp64: they change device, but never dtype.
    """

    def __init__(self, bins: int):
        super().__init__()
        self.bins = bins
        self.fourier: Tensor
        self.filters: Tensor
        self.register_buffer("fourier", fourier_basis(), persistent=False)
        self.register_buffer("filters", mel_filters(bins), persistent=False)

    def forward(self, wavs: Tensor, frames: int, *, mirrored: bool) -> Tensor:
        """(B, S) -> (B, M, frames), in the dtype of `wavs`.

        Args:
            wavs: (B, S), 16 kHz.
            frames: number of frames, one per 10 ms; the first is centred on the first sample, with the audio mirrored
                before it.
            mirrored: whether the audio is also mirrored after its end, as in Whisper's windows of fixed size; else
                silence follows it.
        """
        if exporting():
            return self._spectrum(wavs, frames, mirrored)
        with torch.autocast(wavs.device.type, enabled=False):
            return self._spectrum(wavs, frames, mirrored)

    def _spectrum(self, wavs: Tensor, frames: int, mirrored: bool) -> Tensor:
        x = wavs.to(torch.promote_types(wavs.dtype, torch.float32))
        half = MEL_WINDOW // 2
        before = F.pad(x, (0, half + 1))[:, 1 : half + 1].flip(1)
        if mirrored:
            x = torch.cat([before, x, x[:, -half - 1 : -1].flip(1)], 1)
        else:
            x = F.pad(torch.cat([before, x], 1), (0, frames * MEL_HOP + MEL_WINDOW - x.shape[1]))
        starts = MEL_HOP * torch.arange(frames, device=x.device)
        windows = x[:, starts[:, None] + torch.arange(MEL_WINDOW, device=x.device)]  # (B, frames, MEL_WINDOW)
        real, imaginary = (windows @ self.fourier.to(x.dtype)).chunk(2, dim=-1)
        power = real.square() + imaginary.square()  # (B, frames, MEL_WINDOW // 2 + 1)
        mel = (power @ self.filters.to(x.dtype)).clamp(min=1e-10).log10()  # (B, frames, M)
        mel = mel.maximum(mel.amax(dim=(1, 2), keepdim=True) - LOUD)
        return ((mel + 4) / 4).transpose(1, 2).to(wavs.dtype)

    def reset(self) -> None:
        """Fill its matrices again: a loader that builds models on the meta device (transformers') leaves them empty."""
        self.fourier = fourier_basis().to(self.fourier.device)
        self.filters = mel_filters(self.bins).to(self.filters.device)

    def _apply(self, fn: Any, recurse: bool = True) -> "LogMel":
        """As `nn.Module._apply`, but the matrices keep their dtype."""
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            made = self._buffers[name]
            assert made is not None
            if made.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(made.device)
        return self

    def extra_repr(self) -> str:
        """What a printed model shows."""
        return f"bins={self.bins}"


def fourier_basis() -> Tensor:
    """Hann's window times cosines, then sines, of 0 to 8 kHz: (MEL_WINDOW, 2 x (MEL_WINDOW // 2 + 1)), fp64."""
    samples = torch.arange(MEL_WINDOW, dtype=torch.float64)
    # whole turns are removed as integers, so the angles are exact
    turns = torch.arange(MEL_WINDOW)[:, None] * torch.arange(MEL_WINDOW // 2 + 1) % MEL_WINDOW
    angles = turns.double() * (2 * math.pi / MEL_WINDOW)
    hann = 0.5 - 0.5 * torch.cos(2 * math.pi * samples / MEL_WINDOW)
    return hann[:, None] * torch.cat([angles.cos(), angles.sin()], dim=1)


def mel_filters(bins: int) -> Tensor:
    """Slaney's triangular filters of unit area over 0-8 kHz: (MEL_WINDOW // 2 + 1, bins), fp64.

    His mel scale is linear up to 1 kHz, which is mel 15, and logarithmic above: 27 mel for a factor of 6.4 (Slaney
    1998, Auditory Toolbox).
    """
    nyquist = MEL_SAMPLE_RATE / 2
    top = 15 + 27 * math.log(nyquist / 1000) / math.log(6.4)
    mel = torch.linspace(0, top, bins + 2, dtype=torch.float64)
    edges = torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))
    hertz = torch.linspace(0, nyquist, MEL_WINDOW // 2 + 1, dtype=torch.float64)[:, None]
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0) * 2 / (edges[2:] - edges[:-2])


def feature_extractor(config: EncoderConfig, channels: list[int]) -> FeatureExtractor:
    """The feature extractor of `config`: (B, S) -> (B, T, C), with this number of `channels` in each layer."""
    return (LogMelExtractor if config.front_end == "log_mel" else FeatureExtractor)(config, channels)


class LogMelExtractor(FeatureExtractor):
    """Log-mel spectrum and convolutions, in windows: (B, S) -> (B, T, C).

    Windows of the utterance's own length are followed by silence, so that zeros after an utterance change nothing: a
    padded batch gives the same as single utterances. Padded windows (`EncoderConfig.window`) return all their frames,
    `max_frames` each, even if the audio has fewer.
    """

    def __init__(self, config: EncoderConfig, channels: list[int]):
        super().__init__(config, channels)
        assert config.max_frames is not None and config.window_samples is not None, "`validate` ensures this"
        self.log_mel = LogMel(config.mel_bins)
        self.max_frames, self.window_samples = config.max_frames, config.window_samples
        self.is_padded, self.silent_frames = config.window == "padded", config.silent_frames

    def forward(self, wavs: Tensor) -> Tensor:
        """(B, S) -> (B, T, C)."""
        frames = self.num_frames(wavs.shape[1])
        is_long = not exporting() and wavs.shape[1] > self.window_samples
        if not (is_long or self.is_padded):
            return super().forward(wavs)[:, :frames]
        features = super().forward(cut(wavs, self.window_samples))
        if self.is_padded:
            return join(features, wavs.shape[0], None)
        return join(features[:, : self.max_frames], wavs.shape[0], frames)  # the silence behind has frames of its own

    def heard(self, wavs: Tensor) -> Tensor:
        """The input of the first layer: (B, S) -> (B, M, frames of 10 ms)."""
        frames = wavs.shape[1] // MEL_HOP
        return self.log_mel(wavs, frames + (0 if self.is_padded else self.silent_frames), mirrored=self.is_padded)
