"""The CNN over the raw waveform, and the projection after it. Shapes: see `models/components.py`."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_pruned.models.components import Stack, exporting, made_again
from s3prl_pruned.models.linear import linear, masked, masked_linear, precision_of
from s3prl_pruned.models.shape import EncoderConfig


class _ScaleGradient(torch.autograd.Function):
    """Identity, of any shape, whose gradient is multiplied by `scale` (fairseq's GradMultiply)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


def _normalise_over_time(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """A GroupNorm with one group per channel, for exporters; (B, C, T) -> (B, C, T).

    ONNX Runtime sums sequentially in fp32, where a long constant stretch (padding) rounds the same way every time: an
    error of 1e-4 after 2 s. So both sums are in fp64 (by casting first: the exporter ignores `mean(dtype=)`).
    """
    centred = x - x.double().mean(-1, keepdim=True).to(x.dtype)
    variance = centred.double().square().mean(-1, keepdim=True).to(x.dtype)
    return centred * torch.rsqrt(variance + eps) * weight[:, None] + bias[:, None]


def normalise_survivors(x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, z: Tensor | None) -> Tensor:
    """LayerNorm with the mean and variance of the surviving channels: (..., C) -> (..., C).

    So a masked model normalises as the smaller one will. The other channels are normalised on the same scale, as if
    they came back, since the gradient of their masks depends on these values.

    Args:
        x: (..., C).
        weight: (C,), of the LayerNorm.
        bias: (C,), of the LayerNorm.
        eps: the LayerNorm's.
        z: (C,) masks, 0 for a removed channel; None for a plain LayerNorm.
    """
    if z is None:
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    with torch.autocast(x.device.type, enabled=False):
        x = x if x.dtype == torch.float64 else x.float()  # sums over channels
        alive = (z != 0).to(x.dtype)
        share = alive / alive.sum().clamp(min=1)
        centred = x - (x * share).sum(-1, keepdim=True)
        variance = (centred.square() * share).sum(-1, keepdim=True)
        return centred * torch.rsqrt(variance + eps) * weight + bias


class ConvLayer(nn.Module):
    """Convolution, optional norm, GELU: (B, C_in, S_in) -> (B, C_out, S_out).

    Slot: `z_conv` (C_out,). Here only the norm over channels uses it; the layer that reads the output multiplies by
    it, since soft values are folded into that layer's weights (`export/masks.py`).

    Norm and GELU would store several fp32 copies of the longest activations, and are quick to compute: the backward
    pass recomputes them, and also the convolution of the waveform, whose output is much larger than its input.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int,
        stride: int,
        *,
        bias: bool,
        norm: str | None,
        padding: int = 0,
    ):
        super().__init__()
        self.conv = nn.Conv1d(in_channels, channels, kernel, stride=stride, padding=padding, bias=bias)
        nn.init.kaiming_normal_(self.conv.weight)
        self.norm: nn.GroupNorm | nn.LayerNorm | None = None
        if norm is not None:
            self.norm = nn.GroupNorm(channels, channels) if norm == "time" else nn.LayerNorm(channels)
        self.z_conv: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, S_in) -> (B, C_out, S_out)."""
        if self.norm is None:
            return F.gelu(self.conv(x))
        norm = (self.norm.weight, self.norm.bias, self.z_conv)  # read now: a functional call replaces them
        if self.conv.in_channels > 1:
            return made_again(self._activate, self.conv(x), *norm)
        return made_again(self._convolve_and_activate, x, self.conv.weight, self.conv.bias, *norm)

    def _convolve_and_activate(
        self, x: Tensor, kernel: Tensor, offset: Tensor | None, weight: Tensor, bias: Tensor, z: Tensor | None
    ) -> Tensor:
        return self._activate(F.conv1d(x, kernel, offset, stride=self.conv.stride), weight, bias, z)

    def _activate(self, x: Tensor, weight: Tensor, bias: Tensor, z: Tensor | None) -> Tensor:
        """Norm with this weight, bias and masks, then GELU."""
        assert self.norm is not None
        if isinstance(self.norm, nn.LayerNorm):
            x = normalise_survivors(x.transpose(1, 2), weight, bias, self.norm.eps, z=z).transpose(1, 2)
        elif exporting():
            x = _normalise_over_time(x, weight, bias, self.norm.eps)
        else:
            x = F.group_norm(x, self.norm.num_groups, weight, bias, self.norm.eps)
        return F.gelu(x)


SAMPLES_AT_A_TIME = 2**20
"""Samples of audio (66 s) that the CNN computes at a time where it stores no activations: its first layer then makes
1 GiB in fp32 (Base)."""


class FeatureExtractor(nn.Module):
    """The CNN over the raw waveform: (B, S) -> (B, T, C).

    With `group_norm` the first layer normalises over time, so padding changes its output; s3prl pads and does
    not mask there, and so do we. `channels` is the number of channels of each layer; C is the last layer's.

    Attributes:
        keeps_activations: whether activations are stored for the backward pass; else only the input is stored, and the
            CNN is recomputed.
    """

    def __init__(self, config: EncoderConfig, channels: list[int]):
        super().__init__()
        self.grad_mult = config.feature_grad_mult
        self.keeps_activations = True
        layers = []
        for i, (before, here, (_, kernel, stride)) in enumerate(
            zip([config.in_channels, *channels[:-1]], channels, config.conv_layers, strict=True)
        ):
            norm = {"layer_norm": "channels", "group_norm": None if i else "time", "none": None}[config.extractor_mode]
            padding = kernel // 2 if config.front_end == "log_mel" else 0
            layers.append(ConvLayer(before, here, kernel, stride, bias=config.conv_bias, norm=norm, padding=padding))
        self.layers: Stack[ConvLayer] = Stack(layers)
        self.num_frames = config.num_frames

    def forward(self, wavs: Tensor) -> Tensor:
        """(B, S) -> (B, T, C)."""
        if self.is_masked():
            return self._in_parts(self._masked, wavs).transpose(1, 2)  # (B, T, C)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.grad_mult > 0):
            x = self._in_parts(self._plain, wavs)
        if self.training and 0 < self.grad_mult != 1:
            x = _ScaleGradient.apply(x, self.grad_mult)
        return x.transpose(1, 2)  # (B, T, C)

    def _in_parts(self, function: Callable[[Tensor], Tensor], wavs: Tensor) -> Tensor:
        """`function(wavs)`, (B, S) -> (B, C, T); a few utterances at a time where no activations are stored."""
        keeps = torch.is_grad_enabled() and self.keeps_activations
        if keeps or exporting() or torch.compiler.is_compiling() or wavs.numel() <= SAMPLES_AT_A_TIME:
            return function(wavs) if keeps else made_again(function, wavs)
        size = max(1, SAMPLES_AT_A_TIME // wavs.shape[1])
        return torch.cat([made_again(function, part) for part in wavs.split(size)])

    def heard(self, wavs: Tensor) -> Tensor:
        """The input of the first layer: (B, S) -> (B, 1, S)."""
        return wavs.unsqueeze(1)

    def _plain(self, wavs: Tensor) -> Tensor:
        x = self.heard(wavs)
        for layer in self.layers:
            x = layer(x.to(precision_of(x)))  # (B, C, frames so far)
        return x

    def is_masked(self) -> bool:
        """Whether a slot of any layer is filled."""
        return any(layer.z_conv is not None for layer in self.layers)

    def _masked(self, wavs: Tensor) -> Tensor:
        """`_plain` with masks, multiplied into the next layer's weights (after the last layer, into the projection's).

        `grad_mult` acts on the gradient of each weight, so that masks get their full gradient, also where the weights
        are frozen.
        """
        x, z = self.heard(wavs), None
        for layer in self.layers:
            weights = {name: self._scaled(parameter) for name, parameter in layer.named_parameters()}
            weights["conv.weight"] = masked(weights["conv.weight"], None if z is None else z[:, None])
            x = torch.func.functional_call(layer, weights, (x.to(precision_of(x)),))
            z = layer.z_conv
        return x

    def _scaled(self, parameter: Tensor) -> Tensor:
        if not self.training or self.grad_mult == 1:
            return parameter
        return _ScaleGradient.apply(parameter, self.grad_mult) if self.grad_mult > 0 else parameter.detach()

    def extra_repr(self) -> str:
        """What a printed model shows."""
        return f"channels={[layer.conv.out_channels for layer in self.layers]}"


class FeatureProjection(nn.Module):
    """LayerNorm over channels, then a linear map where the widths differ: (B, T, C) -> (B, T, D).

    If so configured, the channels are scaled before the norm, or there is no norm.

    Slot: `z_conv` (C,), of the feature extractor's last layer, between norm and map.
    """

    def __init__(self, config: EncoderConfig, channels: int):
        super().__init__()
        self.channel_scale = nn.Parameter(torch.ones(channels)) if config.channel_scale else None
        self.layer_norm = nn.LayerNorm(channels) if config.projection_norm else None
        self.projection = linear(channels, config.embed_dim) if config.has_projection else None
        self.z_conv: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, D)."""
        x = self.normalise(features)
        if self.projection is None:
            return masked(x, self.z_conv).contiguous()  # frames of a convolution are not contiguous
        return masked_linear(self.projection, x, inputs=self.z_conv)

    def normalise(self, features: Tensor) -> Tensor:
        """The input of the linear map, before masks: (B, T, C) -> (B, T, C)."""
        x = features if self.channel_scale is None else features * self.channel_scale
        norm = self.layer_norm
        return x if norm is None else normalise_survivors(x, norm.weight, norm.bias, norm.eps, z=self.z_conv)

    def reset(self) -> None:
        """Set its own weights to their initial values."""
        if self.channel_scale is not None:
            nn.init.ones_(self.channel_scale)
