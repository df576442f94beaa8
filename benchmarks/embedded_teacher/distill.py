"""Student and losses: a small WavLM with linear heads that predict Whisper's states and the log-mel spectrum."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.embedded_teacher.recipe import TeacherRecipe
from benchmarks.embedded_teacher.whisper import FFT, NUM_MELS, mel_filters
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig


@dataclass(kw_only=True)
class TeacherLoss:
    """`total` is minimised; the others are its terms, for the log."""

    total: Tensor
    l1: Tensor
    """Mean absolute difference to the standardised targets."""
    cosine: Tensor
    """Mean cosine similarity per frame, for each of the three targets: (3,)."""
    mel: Tensor
    """Mean absolute difference to the log-mel spectrum."""


class Distiller(nn.Module):
    """The encoder with its heads.

    Args:
        config: the encoder's shape.
        recipe: decides `student_layers`, one for each target, `mel_weight` and `mel_decades`.
        target_dim: width W of a target.
    """

    def __init__(self, config: EncoderConfig, recipe: TeacherRecipe, *, target_dim: int):
        super().__init__()
        self.encoder = SpeechEncoder(config)
        self.student_layers, self.mel_weight = recipe.student_layers, recipe.mel_weight
        self.mel_decades = recipe.mel_decades
        width, channels = config.embed_dim, config.conv_layers[-1][0]
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, target_dim)) for _ in self.student_layers
        )
        self.mel_head = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, NUM_MELS))
        self.register_buffer("filters", mel_filters(), persistent=False)
        self._features: Tensor | None = None
        self.encoder.feature_extractor.register_forward_hook(self._keep_features)

    def _keep_features(self, module: nn.Module, args: tuple, features: Tensor) -> None:
        self._features = features

    def mel_loss(self, wavs: Tensor) -> Tensor:
        """Loss of the convolutions alone, (B, S) -> scalar."""
        return self._mel_l1(self.encoder.feature_extractor(wavs), wavs)

    def forward(self, wavs: Tensor, targets: Tensor) -> TeacherLoss:
        """The losses against standardised targets.

        Args:
            wavs: (B, S).
            targets: (B, T, 3 W), where T is the encoder's number of frames for S samples.
        """
        states = self.encoder(wavs).hidden_states
        predicted = torch.stack(
            [head(states[layer]) for head, layer in zip(self.heads, self.student_layers, strict=True)], dim=2
        )
        predicted, targets = predicted.float(), targets.unflatten(-1, (len(self.heads), -1))  # (B, T, 3, W)
        l1 = F.l1_loss(predicted, targets)
        cosine = F.cosine_similarity(predicted, targets, dim=-1)  # (B, T, 3)
        mel = self._mel_l1(self._features, wavs)
        self._features = None
        # DistilHuBERT's loss (Chang et al. 2022, eq. 1), plus the spectrum's
        total = l1 - F.logsigmoid(cosine).mean() + self.mel_weight * mel
        return TeacherLoss(total=total, l1=l1.detach(), cosine=cosine.detach().mean((0, 1)), mel=mel.detach())

    def _mel_l1(self, features: Tensor, wavs: Tensor) -> Tensor:
        with torch.autocast(wavs.device.type, enabled=False), torch.no_grad():
            target = frame_log_mel(wavs, self.filters, self.mel_decades)
        return F.l1_loss(self.mel_head(features).float(), target)


def frame_log_mel(wavs: Tensor, filters: Tensor, decades: float) -> Tensor:
    """Log10-mel power under each of the encoder's frames, mean 0 over a crop: (B, S) -> (B, T, M).

    The 400 samples under a frame are exactly the window of a spectrum. The mean is subtracted because GroupNorm hides
    the loudness from the convolutions; power more than `decades` below the loudest is clipped.
    """
    window = torch.hann_window(FFT, device=wavs.device)
    spectrum = torch.stft(wavs, FFT, 320, window=window, center=False, return_complex=True)
    mel = (filters @ spectrum.abs().square()).clamp(min=1e-10).log10()  # (B, M, T)
    mel = mel.maximum(mel.amax(dim=(1, 2), keepdim=True) - decades)
    return (mel - mel.mean(dim=(1, 2), keepdim=True)).transpose(1, 2)
