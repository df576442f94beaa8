"""The CNN as matrix products over windows, a stretch of frames at a time, GroupNorm folded into the first product."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def extract_features(layers: nn.ModuleList, wavs: Tensor, derived, *, frames_at_a_time: int) -> Tensor:
    """What `components.FeatureExtractor` computes: (B, S) -> (B, T, C).

    In channels-last order a window of frames is one row in memory, so that a convolution is a matrix product. A stretch
    of frames goes through all layers while it is in the cache.

    Args:
        layers: the extractor's `ConvLayer`s.
        wavs: float32 or float64.
        derived: keeps the weights in the order that the products want (`paths.Derived`).
        frames_at_a_time: frames of a stretch.
    """
    convs = [layer.conv for layer in layers]
    weights = derived.get("rows", [conv.weight for conv in convs], lambda: [_rows(conv) for conv in convs])
    kernels, strides = [conv.kernel_size[0] for conv in convs], [conv.stride[0] for conv in convs]
    field, hop, num_frames = 1, 1, wavs.shape[1]
    for kernel, stride in zip(kernels, strides):
        field, hop, num_frames = field + (kernel - 1) * hop, hop * stride, (num_frames - kernel) // stride + 1
    features = wavs.new_empty(wavs.shape[0], num_frames, convs[-1].out_channels)
    for wav, out in zip(wavs.contiguous(), features):
        first = (weights[0], convs[0].bias)
        if layers[0].norm_over == "time":
            first = _fold_norm(layers[0].norm, *first, _windows(wav[:, None], kernels[0], strides[0]))
        for start in range(0, num_frames, frames_at_a_time):
            part = out[start : start + frames_at_a_time]  # (frames, C)
            x = wav[start * hop : (start + len(part) - 1) * hop + field, None]  # (samples, 1)
            for layer, weight, kernel, stride in zip(layers, weights, kernels, strides):
                weight, bias = first if layer is layers[0] else (weight, layer.conv.bias)
                x = _convolve(x, weight, bias, kernel, stride)
                x = F.gelu(layer.norm(x) if layer.norm_over == "channels" else x)
            part.copy_(x)
    return features


def _rows(conv: nn.Conv1d) -> Tensor:
    """(C_out, C_in, kernel) -> (kernel x C_in, C_out): a row per element of a window."""
    return conv.weight.detach().permute(2, 1, 0).reshape(-1, conv.out_channels).contiguous()


def _windows(x: Tensor, kernel: int, stride: int) -> Tensor:
    """All windows of (frames, C), one row each: (windows, kernel x C), a view."""
    frames, channels = x.shape
    count = (frames - kernel) // stride + 1
    return x.as_strided((count, kernel * channels), (stride * channels, 1), x.storage_offset())


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, kernel: int, stride: int) -> Tensor:
    """Convolution over contiguous (frames, C_in) -> (windows, C_out).

    Windows that overlap are no matrix to BLAS, and torch would copy them. So they are taken in two pieces that do not:
    the first `stride` frames, and the rest.
    """
    channels, tail = x.shape[1], kernel - stride
    if tail <= 0 or channels == 1:  # one channel: the copy is small, and two thin products are slower
        rows = _windows(x, kernel, stride)
        return torch.mm(rows, weight) if bias is None else torch.addmm(bias, rows, weight)
    head = _windows(x, stride, stride)[: (len(x) - kernel) // stride + 1]
    split = stride * channels
    y = torch.mm(head, weight[:split]) if bias is None else torch.addmm(bias, head, weight[:split])
    return y.addmm_(_windows(x[stride:], tail, stride), weight[split:])


def _fold_norm(
    norm: nn.GroupNorm, weight: Tensor, bias: Tensor | None, windows: Tensor
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution followed by a GroupNorm over time, for one utterance.

    A channel's mean and variance over time follow from those of the windows: mean @ w and w^T Cov w. In float64, since
    a variance is a difference of squares.

    Args:
        weight: (kernel, C).
        windows: (frames, kernel).
    """
    precise, w = windows.double(), weight.double()
    mean = precise.mean(0)  # (kernel,)
    covariance = precise.T @ precise / len(precise) - mean[:, None] * mean
    variance = ((covariance @ w) * w).sum(0).clamp(min=0)  # (C,)
    scale = norm.weight.double() * torch.rsqrt(variance + norm.eps)
    shift = norm.bias.double() - mean @ w * scale  # the convolution's own bias goes out with the mean
    return (w * scale).to(weight.dtype), shift.to(weight.dtype)
