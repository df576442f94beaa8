"""The CNN as matrix products over windows, a stretch of frames at a time, GroupNorm folded into the first product."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_pruned.models.accelerate.paths import Derived, path_for
from s3prl_pruned.models.cnn import SAMPLES_AT_A_TIME, ConvLayer, FeatureExtractor
from s3prl_pruned.models.components import Stack

gelu_ = torch.ops.aten.gelu_
"""`F.gelu` in place."""

WIDE = 320
"""Channels on both sides from which on seven products instead of nine save more than their sums cost (LOG.md). In fp32:
in half precision products cost less and sums round more."""

Product = Callable[[Tensor], Tensor]
"""A convolution without its norm: (frames, C_in), contiguous -> (windows, C_out).

Where kernel and stride are 3 and 2, it is asked for a multiple of three windows (`_convolve_by_threes`).
"""


class FastFeatureExtractor(FeatureExtractor):
    """`FeatureExtractor` that uses the paths in `paths.PATHS` in inference."""

    derived: Derived

    def forward(self, wavs: Tensor) -> Tensor:
        """(B, S) -> (B, T, C)."""
        path = None if self.is_masked() else path_for(self, wavs, self.num_frames(wavs.shape[-1]))
        if path is None or (wavs.is_cuda and wavs.shape[1] <= SAMPLES_AT_A_TIME):
            return super().forward(wavs)
        return extract_features(self.layers, wavs, self.derived, frames_at_a_time=path.cnn_frames)


def extract_features(
    layers: Stack[ConvLayer],
    wavs: Tensor,
    derived: Derived,
    *,
    frames_at_a_time: int,
    products: Sequence[Product] | None = None,
) -> Tensor:
    """The same as `models.cnn.FeatureExtractor`: (B, S) -> (B, T, C).

    In channels-last order a window of frames is one row in memory, so that a convolution is a matrix product. A stretch
    of frames goes through all layers while it is in the cache.

    Args:
        layers: the extractor's `ConvLayer`s.
        wavs: (B, S).
        derived: caches the weights in the order that the products need (`paths.Derived`).
        frames_at_a_time: frames of a stretch.
        products: functions for the convolutions after the first; None for the layers' own.
    """
    convs = [layer.conv for layer in layers]
    if products is None:
        weights = [parameter for conv in convs[1:] for parameter in conv.parameters()]
        products = derived.get("products", weights, lambda: [product(conv) for conv in convs[1:]])
    first_rows = derived.get("first", [convs[0].weight], lambda: rows_of(convs[0]))
    kernels, strides = [conv.kernel_size[0] for conv in convs], [conv.stride[0] for conv in convs]
    hop, num_frames = 1, wavs.shape[1]
    for kernel, stride in zip(kernels, strides, strict=True):
        hop, num_frames = hop * stride, (num_frames - kernel) // stride + 1
    features = wavs.new_empty(wavs.shape[0], num_frames, convs[-1].out_channels)
    for wav, out in zip(wavs.contiguous(), features, strict=True):
        weight, bias = first_rows, convs[0].bias
        if isinstance(layers[0].norm, nn.GroupNorm):
            weight, bias = _fold_norm(layers[0].norm, weight, windows(wav[:, None], kernels[0], strides[0]))
        first = partial(_convolve, weight=weight, bias=bias, kernel=kernels[0], stride=strides[0])
        for start in range(0, num_frames, frames_at_a_time):
            part = out[start : start + frames_at_a_time]  # (frames, C)
            samples = _samples_heard(len(part), kernels, strides)
            x = wav[start * hop : start * hop + samples]
            x = F.pad(x, (0, samples - len(x)))[:, None]  # (samples, 1)
            for layer, convolve in zip(layers, (first, *products), strict=True):
                x = convolve(x)
                x = gelu_(layer.norm(x) if isinstance(layer.norm, nn.LayerNorm) else x)
            part.copy_(x[: len(part)])
    return features


def _samples_heard(frames: int, kernels: list[int], strides: list[int]) -> int:
    """Number of samples for at least `frames` frames, and a multiple of three windows where `Product` needs it."""
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        windows = -(-frames // 3) * 3 if (kernel, stride) == (3, 2) else frames
        frames = (windows - 1) * stride + kernel
    return frames


def product(conv: nn.Conv1d) -> Product:
    """The convolution as matrix products, with its weights in the order that they need."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    wide = min(conv.in_channels, conv.out_channels) >= WIDE
    if (kernel, stride) == (3, 2) and wide and conv.weight.device.type == "cpu" and conv.weight.dtype.itemsize > 2:
        a, b, c = (tap.contiguous() for tap in conv.weight.detach().permute(2, 1, 0))  # (C_in, C_out) each
        return partial(
            _convolve_by_threes, taps=(a, b, c), half_sum=(a + c) / 2, half_difference=(a - c) / 2, bias=conv.bias
        )
    return partial(_convolve, weight=rows_of(conv), bias=conv.bias, kernel=kernel, stride=stride)


def rows_of(conv: nn.Conv1d) -> Tensor:
    """(C_out, C_in, kernel) -> (kernel x C_in, C_out): a row per element of a window."""
    return conv.weight.detach().permute(2, 1, 0).reshape(-1, conv.out_channels).contiguous()


def windows(x: Tensor, kernel: int, stride: int) -> Tensor:
    """All windows of (frames, C), one row each: (windows, kernel x C), a view."""
    frames, channels = x.shape
    count = (frames - kernel) // stride + 1
    return x.as_strided((count, kernel * channels), (stride * channels, 1), x.storage_offset())


def _convolve(x: Tensor, *, weight: Tensor, bias: Tensor | None, kernel: int, stride: int) -> Tensor:
    """Convolution over contiguous (frames, C_in) -> (windows, C_out).

    BLAS cannot read overlapping windows as a matrix, and torch would copy them. So each window is split into two pieces
    that do not overlap: the first `stride` frames, and the rest.
    """
    channels, tail = x.shape[1], kernel - stride
    if tail <= 0 or channels == 1:  # one channel: the copy is small, and two thin products are slower
        rows = windows(x, kernel, stride)
        return torch.mm(rows, weight) if bias is None else torch.addmm(bias, rows, weight)
    head = windows(x, stride, stride)[: (len(x) - kernel) // stride + 1]
    split = stride * channels
    y = torch.mm(head, weight[:split]) if bias is None else torch.addmm(bias, head, weight[:split])
    return y.addmm_(windows(x[stride:], tail, stride), weight[split:])


def _convolve_by_threes(
    x: Tensor, *, taps: tuple[Tensor, Tensor, Tensor], half_sum: Tensor, half_difference: Tensor, bias: Tensor | None
) -> Tensor:
    """Convolution of kernel 3 and stride 2 in 7 products where `_convolve` has 9: (frames, C_in) -> (windows, C_out).

    The first and the last tap (a, c) see even frames alone, where they are a convolution of stride 1. Winograd's
    F(3, 2) makes three of its outputs from even frames d0 to d3 in four products (Winograd 1980; Lavin and Gray 2016,
    section 4):

        m = (d1 + d2) (a + c) / 2        s = (d2 - d1) (a - c) / 2
        y0 = m + s + (d0 - d2) a         y1 = m - s         y2 = m + s + (d3 - d1) c

    The middle tap's products over odd frames are added to all three. Windows beyond a multiple of three are left out.
    """
    threes = ((len(x) - 3) // 2 + 1) // 3
    a, b, c = taps
    d0, d1, d2, d3 = (windows(x[2 * k :], 1, 6)[:threes] for k in range(4))  # (threes, C_in), views
    m, s = torch.mm(d1 + d2, half_sum), torch.mm(d2 - d1, half_difference)
    y = x.new_empty(threes, 3, b.shape[1])
    torch.add(m, s, out=y[:, 0])
    torch.sub(m, s, out=y[:, 1])
    y[:, 2] = y[:, 0]
    y[:, 0].addmm_(d0 - d2, a)
    y[:, 2].addmm_(d3 - d1, c)
    y = y.flatten(0, 1).addmm_(windows(x[1:], 1, 2)[: 3 * threes], b)
    return y if bias is None else y.add_(bias)


def _fold_norm(norm: nn.GroupNorm, weight: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution followed by a GroupNorm over time, for one utterance.

    A channel's mean and variance over time follow from those of the windows: mean @ w and w^T Cov w. In float64, since
    a variance is a difference of squares. The convolution's own bias cancels out with the mean.

    Args:
        norm: a group per channel.
        weight: (kernel, C).
        heard: (frames, kernel), the windows.
    """
    precise, w = heard.double(), weight.double()
    mean = precise.mean(0)  # (kernel,)
    covariance = precise.T @ precise / len(precise) - mean[:, None] * mean
    variance = ((covariance @ w) * w).sum(0).clamp(min=0)  # (C,)
    scale = norm.weight.double() * torch.rsqrt(variance + norm.eps)
    shift = norm.bias.double() - mean @ w * scale
    return (w * scale).to(weight.dtype), shift.to(weight.dtype)
