"""Building blocks of the encoder, in data order. Numerics follow s3prl's `upstream/wavlm/{WavLM,modules}.py`.

Legend, here once: B batch, S samples (16 kHz), T frames (20 ms), C channels of the feature extractor,
D embed dim, H heads, K head dim, F feed-forward dim, L layers.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_pruned.models.linear import linear
from s3prl_pruned.models.spec import EncoderConfig, Ranks

Held = TypeVar("Held", bound=nn.Module)


class Stack(nn.ModuleList, Generic[Held]):
    """`nn.ModuleList` that tells a type checker what it holds."""

    if TYPE_CHECKING:

        def __getitem__(self, index: int) -> Held:  # type: ignore[override]  # no slices here
            ...

        def __iter__(self) -> Iterator[Held]: ...


def exporting() -> bool:
    """Whether torch.export traces the model (a torch without `is_exporting` cannot tell it from torch.compile)."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def masked(x: Tensor, z: Tensor | None) -> Tensor:
    """`x * z`, (..., N) and (N,) or (1,); where the slot is empty (None), `x` as it is."""
    return x if z is None else x * z


def normalize_utterances(wavs: Tensor, lengths: Tensor | None) -> Tensor:
    """Zero mean and unit variance over each utterance's own samples, padding left at zero: (B, S) -> (B, S).

    The batched form of `data.waveforms.normalize_waveform` (a LayerNorm over the utterance).

    Args:
        wavs: (B, S), zero-padded.
        lengths: (B,) int64 samples, or None when nothing is padded.
    """
    if lengths is None:
        return F.layer_norm(wavs, wavs.shape[-1:])
    valid = torch.arange(wavs.shape[1], device=wavs.device) < lengths[:, None]  # (B, S)
    precise = torch.float64 if exporting() else wavs.dtype  # see `_normalise_over_time`
    mean = wavs.masked_fill(~valid, 0.0).to(precise).sum(1, keepdim=True) / lengths[:, None]
    centred = (wavs - mean.to(wavs.dtype)).masked_fill(~valid, 0.0)
    variance = centred.to(precise).square().sum(1, keepdim=True) / lengths[:, None]
    return centred * torch.rsqrt(variance.to(wavs.dtype) + 1e-5)


class _ScaleGradient(torch.autograd.Function):
    """Identity, of any shape, whose gradient is multiplied by `scale` (fairseq's GradMultiply)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


def _normalise_over_time(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """What `norm` with a group per channel does, for exporters; (B, C, T) -> (B, C, T).

    ONNX Runtime sums one by one in fp32, where a long constant stretch (padding) rounds the same way every time: 1e-4
    off after 2 s. So the two sums are in fp64 (by casting first: the exporter does not heed `mean(dtype=)`).
    """
    centred = x - x.double().mean(-1, keepdim=True).to(x.dtype)
    variance = centred.double().square().mean(-1, keepdim=True).to(x.dtype)
    return centred * torch.rsqrt(variance + norm.eps) * norm.weight[:, None] + norm.bias[:, None]


def normalise_survivors(norm: nn.LayerNorm, x: Tensor, z: Tensor | None) -> Tensor:
    """LayerNorm whose mean and variance are those of the channels that survive: (..., C) -> (..., C).

    So a masked model normalises as the smaller one will. The others come out on the survivors' scale, as they would
    if they came back: that is what their masks' gradient is to be taken of.

    Args:
        norm: the LayerNorm.
        x: (..., C).
        z: (C,) masks, 0 for a channel that is gone; None for a plain LayerNorm.
    """
    if z is None:
        return norm(x)
    with torch.autocast(x.device.type, enabled=False):
        x = x if x.dtype == torch.float64 else x.float()  # sums over channels
        alive = (z != 0).to(x.dtype)
        share = alive / alive.sum().clamp(min=1)
        centred = x - (x * share).sum(-1, keepdim=True)
        variance = (centred.square() * share).sum(-1, keepdim=True)
        return centred * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias


class ConvLayer(nn.Module):
    """Convolution, optional norm, GELU: (B, C_in, S_in) -> (B, C_out, S_out).

    Slot: `z_conv` (C_out,), which its norm over channels heeds; whoever reads the output multiplies with it, since it
    is the reader's weights that soft values are folded into (`export/masks.py`).
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, *, bias: bool, norm: str | None):
        super().__init__()
        self.conv = nn.Conv1d(in_channels, channels, kernel, stride=stride, bias=bias)
        nn.init.kaiming_normal_(self.conv.weight)
        self.norm: nn.GroupNorm | nn.LayerNorm | None = None
        if norm is not None:
            self.norm = nn.GroupNorm(channels, channels) if norm == "time" else nn.LayerNorm(channels)
        self.z_conv: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, S_in) -> (B, C_out, S_out)."""
        x = self.conv(x)
        if isinstance(self.norm, nn.GroupNorm):
            x = _normalise_over_time(x, self.norm) if exporting() else self.norm(x)
        elif self.norm is not None:
            x = normalise_survivors(self.norm, x.transpose(1, 2), self.z_conv).transpose(1, 2)
        return F.gelu(x)


class FeatureExtractor(nn.Module):
    """The CNN over the raw waveform: (B, S) -> (B, T, C).

    With `group_norm` the first layer normalises over time, so padding changes its output; s3prl pads and does
    not mask there, and so do we. `channels` says how many of each layer there are; C is the last layer's.
    """

    def __init__(self, config: EncoderConfig, channels: list[int]):
        super().__init__()
        self.grad_mult = config.feature_grad_mult
        layers = []
        for i, (before, here, (_, kernel, stride)) in enumerate(
            zip([1, *channels[:-1]], channels, config.conv_layers, strict=True)
        ):
            norm = "channels" if config.extractor_mode == "layer_norm" else "time" if i == 0 else None
            layers.append(ConvLayer(before, here, kernel, stride, bias=config.conv_bias, norm=norm))
        self.layers: Stack[ConvLayer] = Stack(layers)
        self.num_frames = config.num_frames

    def forward(self, wavs: Tensor) -> Tensor:
        """(B, S) -> (B, T, C)."""
        if self.is_masked():
            return self._masked(wavs)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.grad_mult > 0):
            x = wavs.unsqueeze(1)  # (B, 1, S)
            for layer in self.layers:
                x = layer(x)  # (B, C, frames so far)
        if self.training and 0 < self.grad_mult != 1:
            x = _ScaleGradient.apply(x, self.grad_mult)
        return x.transpose(1, 2)  # (B, T, C)

    def is_masked(self) -> bool:
        """Whether a slot of any layer is filled."""
        return any(layer.z_conv is not None for layer in self.layers)

    def _masked(self, wavs: Tensor) -> Tensor:
        """`forward` under masks.

        `grad_mult` acts on the weights, one by one: the masks get their whole gradient, also where the weights are
        frozen.
        """
        x = wavs.unsqueeze(1)  # (B, 1, S)
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            weights = {name: self._scaled(parameter) for name, parameter in layer.named_parameters()}
            x = torch.func.functional_call(layer, weights, (x,))
            if i < last and layer.z_conv is not None:  # the last layer's reader is the projection
                x = x * layer.z_conv[:, None]
        return x.transpose(1, 2)  # (B, T, C)

    def _scaled(self, parameter: Tensor) -> Tensor:
        if not self.training or self.grad_mult == 1:
            return parameter
        return _ScaleGradient.apply(parameter, self.grad_mult) if self.grad_mult > 0 else parameter.detach()

    def extra_repr(self) -> str:
        """What a printed model tells."""
        return f"channels={[layer.conv.out_channels for layer in self.layers]}"


class FeatureProjection(nn.Module):
    """LayerNorm over channels, then a linear map where the widths differ: (B, T, C) -> (B, T, D).

    Slot: `z_conv` (C,), of the feature extractor's last layer, between norm and map.
    """

    def __init__(self, config: EncoderConfig, channels: int):
        super().__init__()
        self.layer_norm = nn.LayerNorm(channels)
        self.projection = linear(channels, config.embed_dim) if config.has_projection else None
        self.z_conv: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, D)."""
        x = normalise_survivors(self.layer_norm, features, self.z_conv)
        x = masked(x, self.z_conv)
        return x if self.projection is None else self.projection(x)


class PositionalConvolution(nn.Module):
    """Weight-normalised grouped convolution over frames, then GELU: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        kernel, dim = config.pos_conv_kernel, config.embed_dim
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=config.pos_conv_groups)
        nn.init.normal_(conv.weight, std=math.sqrt(4.0 / (kernel * dim)))
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        self.conv = nn.utils.parametrizations.weight_norm(conv, dim=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        num_frames = x.shape[1]
        x = self.conv(x.transpose(1, 2))[..., :num_frames]  # (B, D, T); an even kernel gives one frame too many
        return F.gelu(x).transpose(1, 2)


class PositionalConvolutionStack(nn.Module):
    """data2vec's: grouped convolutions, each with a LayerNorm without parameters and GELU; (B, T, D) -> (B, T, D)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        kernel, dim, groups = config.pos_conv_kernel, config.embed_dim, config.pos_conv_groups
        self.convs: Stack[nn.Conv1d] = Stack(
            nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups) for _ in range(config.pos_conv_depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        num_frames = x.shape[1]
        for conv in self.convs:
            x = conv(x.transpose(1, 2))[..., :num_frames].transpose(1, 2)  # (B, T, D)
            x = F.gelu(F.layer_norm(x, x.shape[-1:]))
        return x


def positional_convolution(config: EncoderConfig) -> nn.Module:
    """The one that `config` asks for: (B, T, D) -> (B, T, D)."""
    return PositionalConvolution(config) if config.pos_conv_depth == 1 else PositionalConvolutionStack(config)


class RelativePosition(nn.Module):
    """Bucketed relative position bias, one value per head and distance (T5's buckets, as in WavLM).

    Owned by the encoder and not by layer 0's attention, so that pruning that attention away does not take the
    bias of all other layers along.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.num_buckets = config.num_buckets
        self.max_distance = config.max_distance
        self.embedding = nn.Embedding(config.num_buckets, config.num_heads)

    def buckets(self, distance: Tensor) -> Tensor:
        """Bucket of key position minus query position, in frames; int64, any shape."""
        half = self.num_buckets // 2
        exact = half // 2
        size = distance.abs()
        # clamp: log(0) is never selected, but would make an undefined int64.
        coarse = torch.log(size.clamp(min=1).float() / exact) / math.log(self.max_distance / exact) * (half - exact)
        coarse = (exact + coarse.to(torch.long)).clamp(max=half - 1)
        return (distance > 0).long() * half + torch.where(size < exact, size, coarse)

    def by_distance(self, num_frames: int) -> Tensor:
        """Bias by key position minus query position, from 1 - T to T - 1: (H, 2T - 1) for `num_frames` = T."""
        distance = torch.arange(1 - num_frames, num_frames, device=self.embedding.weight.device)
        return self.embedding(self.buckets(distance)).T

    def forward(self, num_frames: int) -> Tensor:
        """Bias for `num_frames` = T queries and keys: (H, T, T), [h, query, key]."""
        return toeplitz(self.by_distance(num_frames))


def toeplitz(by_distance: Tensor) -> Tensor:
    """(H, 2T - 1) by distance -> (H, T, T), [h, query, key]: row q is the window of the distances that starts at -q."""
    num_frames = (by_distance.shape[-1] + 1) // 2
    if exporting():  # exporters make a fixed length of the view below
        positions = torch.arange(num_frames, device=by_distance.device)
        return by_distance[:, positions - positions[:, None] + num_frames - 1]
    return by_distance.unfold(-1, num_frames, 1).flip(1)


class FeedForward(nn.Module):
    """Linear, GELU, linear; (B, T, D) -> (B, T, D). Slots: `z_int` (F,) after GELU, `z_ffn` (1,) on the output."""

    def __init__(self, config: EncoderConfig, num_dims: int, ranks: Ranks | None = None):
        super().__init__()
        ranks = ranks or Ranks()
        self.num_dims = num_dims
        self.fc1 = linear(config.embed_dim, num_dims, rank=ranks.fc1)
        self.fc2 = linear(num_dims, config.embed_dim, rank=ranks.fc2)
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.z_int: Tensor | None = None
        self.z_ffn: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D) (Wang et al. 2023, eq. 3)."""
        return masked(self.transform(x), self.z_ffn)

    def transform(self, x: Tensor) -> Tensor:
        """`forward` without `z_ffn`."""
        x = masked(F.gelu(self.fc1(x)), self.z_int)  # (B, T, F)
        return self.fc2(self.activation_dropout(x))

    def extra_repr(self) -> str:
        """What a printed model tells."""
        return f"dims={self.num_dims}"
