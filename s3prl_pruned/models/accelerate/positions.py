"""The positional convolution by Fourier transforms: 128 taps cost little more than one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_pruned.models.accelerate.paths import Derived, path_for
from s3prl_pruned.models.components import PositionalConvolution


class FastPositionalConvolution(PositionalConvolution):
    """`PositionalConvolution` that takes the path of `paths.PATHS` in inference."""

    derived: Derived

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        path = path_for(self, x, x.shape[1])
        if path is None:
            return super().forward(x)
        return F.gelu(convolve(self.conv, x, self.derived, block=path.block))


def convolve(conv: nn.Conv1d, x: Tensor, derived: Derived, *, block: int) -> Tensor:
    """What a grouped convolution with padding `kernel // 2` computes, bias included, cut to T frames.

    A short utterance is one circular block; a longer one is cut into overlapping blocks of which the valid part is kept
    (overlap-save).

    Args:
        conv: stride 1.
        x: (B, T, D).
        derived: keeps the weights' transform (`paths.Derived`), `block` / `kernel` times as large as they.
        block: size of the transforms, frames; twice the kernel where it is smaller than the kernel.
    """
    kernel, frames = conv.kernel_size[0], x.shape[1]
    left = kernel // 2
    block = block if block >= kernel else 2 * kernel
    spectrum = derived.get(block, list(conv.parameters()), lambda: _spectrum(conv, block))
    if frames + left <= block:
        y = _multiply(x.transpose(1, 2), spectrum, block)  # (B, D, block), late by `left` frames
        y = torch.cat((y[..., block - left :], y[..., : max(0, frames - left)]), -1)[..., :frames]
    else:
        valid = block - kernel + 1
        count = -(-frames // valid)
        padded = F.pad(x, (0, 0, left, count * valid - frames + kernel - 1 - left))
        y = _multiply(padded.unfold(1, block, valid).flatten(0, 1), spectrum, block)[
            ..., :valid
        ]  # (B x count, D, valid)
        y = y.unflatten(0, (-1, count)).transpose(1, 2).flatten(2)[..., :frames]
    y = y.transpose(1, 2).masked_fill(_out_of_reach(x, kernel, left), 0.0)  # (B, T, D)
    return y if conv.bias is None else y + conv.bias


def _out_of_reach(x: Tensor, kernel: int, left: int) -> Tensor:
    """Frames with nothing but zeros (padding) under the kernel: (B, T, 1) bool.

    The convolution is exactly zero there; transforms leave rounding, which a LayerNorm of nothing else would blow up.
    """
    heard = F.pad((x != 0).any(-1).to(x.dtype), (left, kernel - 1 - left))  # (B, T + kernel - 1)
    return F.max_pool1d(heard, kernel, stride=1)[..., None] == 0


def _spectrum(conv: nn.Conv1d, block: int) -> Tensor:
    """The weights' transform, conjugated: (block // 2 + 1, groups, D / groups in, D / groups out), complex."""
    spectrum = torch.fft.rfft(conv.weight.detach(), n=block).conj()  # (D, D / groups, F)
    return spectrum.unflatten(0, (conv.groups, -1)).permute(3, 0, 2, 1).contiguous()


def _multiply(x: Tensor, spectrum: Tensor, block: int) -> Tensor:
    """Circular correlation of (N, D, up to `block` frames) with the weights: (N, D, block)."""
    x = torch.fft.rfft(x, n=block).unflatten(1, (spectrum.shape[1], -1))  # (N, groups, D / groups, F)
    y = torch.matmul(x.permute(3, 1, 0, 2), spectrum)  # (F, groups, N, D / groups)
    return torch.fft.irfft(y.permute(2, 1, 3, 0).flatten(1, 2), n=block)
