"""The positional convolution in the form that is fastest: by Fourier transforms, 128 taps cost little more than one.

`F.conv1d` is the reference. On a GPU, cuDNN's kernel for a grouped convolution in half precision takes 12 ms whatever
the length (H200), and is never called here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_pruned.models.accelerate.paths import Derived, Path, path_for
from s3prl_pruned.models.components import PositionalConvolution, PositionalConvolutionStack, exporting
from s3prl_pruned.models.linear import precision_of

FORMS = ("conv", "unfold", "fft")

TRAINING = {"cuda": Path(max_frames=None, positions="fft", cnn_frames=0)}
"""The path with gradients or autocast, by type of device; without an entry, the reference."""


class FastPositionalConvolution(PositionalConvolution):
    """`PositionalConvolution` that uses the paths in `paths.PATHS` in inference, and `TRAINING` on a GPU."""

    derived: Derived

    def convolve(self, conv: nn.Conv1d, x: Tensor) -> Tensor:
        """As `PositionalConvolution.convolve`."""
        path = positions_path(self, x)
        return super().convolve(conv, x) if path is None else convolve(conv, x, self.derived, path)


class FastPositionalConvolutionStack(PositionalConvolutionStack):
    """`PositionalConvolutionStack` by the same paths, on a GPU: its few taps are fast enough on a CPU."""

    derived: Derived

    def convolve(self, conv: nn.Conv1d, x: Tensor) -> Tensor:
        """As `PositionalConvolutionStack.convolve`."""
        path = positions_path(self, x) if x.device.type in TRAINING else None
        return super().convolve(conv, x) if path is None else convolve(conv, x, self.derived, path)


def positions_path(module: nn.Module, x: Tensor) -> Path | None:
    """The path for states (B, T, D), in training too; None for the reference.

    A teacher uses the training path in inference, too (`accelerate.of_teacher`).
    """
    path = path_for(module, x, x.shape[1]) if vars(module).get("in_inference", True) else None
    if path is None and not exporting() and not torch.compiler.is_compiling():
        path = TRAINING.get(x.device.type)
    return path


def convolve(conv: nn.Conv1d, x: Tensor, derived: Derived, path: Path) -> Tensor:
    """A grouped convolution with padding `kernel // 2` and bias, cut to T frames: (B, T, D).

    In the precision of `conv(x)`, autocast included; transforms are in fp32 at least. Differentiable where gradients
    are enabled.

    Args:
        conv: stride 1.
        x: (B, T, D).
        derived: caches the weights' transform (`paths.Derived`), `block` / `kernel` times as large as the weights.
        path: its `positions` and `block`.
    """
    if path.positions == "fft":
        return _by_transforms(conv, x, derived, path.block)
    if path.positions == "unfold":
        return _by_products(conv, x)
    return conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)


def _by_products(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """By one matrix product for each group, of all windows with the weights; windows are copied."""
    kernel, groups, (batch, frames, _) = conv.kernel_size[0], conv.groups, x.shape
    left = kernel // 2
    padded = F.pad(x.transpose(1, 2), (left, kernel - 1 - left))  # (B, D, T + kernel - 1)
    windows = padded.unflatten(1, (groups, -1)).unfold(-1, kernel, 1)  # (B, groups, D / groups, T, kernel)
    windows = windows.permute(1, 0, 3, 2, 4).reshape(groups, batch * frames, -1)
    weight = conv.weight.unflatten(0, (groups, -1)).flatten(2).transpose(1, 2)  # (groups, in x kernel, out)
    if conv.bias is None:
        y = torch.bmm(windows, weight)
    else:
        y = torch.baddbmm(conv.bias.view(groups, 1, -1), windows, weight)
    return y.unflatten(1, (batch, frames)).permute(1, 2, 0, 3).flatten(2)


def _by_transforms(conv: nn.Conv1d, x: Tensor, derived: Derived, block: int) -> Tensor:
    """By products of Fourier transforms.

    A short utterance is one circular block; a longer one is cut into overlapping blocks of which the valid part is kept
    (overlap-save).

    Args:
        conv: as `convolve`.
        x: (B, T, D).
        derived: as `convolve`.
        block: size of the transforms in frames; if smaller than the kernel, twice the kernel is used.
    """
    given, kernel, frames = x, conv.kernel_size[0], x.shape[1]
    left = kernel // 2
    block = block if block >= kernel else 2 * kernel
    if x.is_cuda:  # the weights are transformed each time
        block = min(block, 1 << (frames + kernel - 2).bit_length())
    if torch.is_grad_enabled():
        spectrum = _spectrum(conv.weight, conv.groups, block)
    else:
        spectrum = derived.get(block, list(conv.parameters()), lambda: _spectrum(conv.weight, conv.groups, block))
    x = x.to(spectrum.real.dtype)
    if frames + left <= block:
        y = _multiply(x.transpose(1, 2), spectrum, block)  # (B, D, block), delayed by `left` frames
        y = torch.cat((y[..., block - left :], y[..., : max(0, frames - left)]), -1)[..., :frames]
    else:
        valid = block - kernel + 1
        count = -(-frames // valid)
        padded = F.pad(x, (0, 0, left, count * valid - frames + kernel - 1 - left))
        y = _multiply(padded.unfold(1, block, valid).flatten(0, 1), spectrum, block)[
            ..., :valid
        ]  # (B x count, D, valid)
        y = y.unflatten(0, (-1, count)).transpose(1, 2).flatten(2)[..., :frames]
    y = y.transpose(1, 2).masked_fill(_out_of_reach(given, kernel, left), 0.0)  # (B, T, D)
    return (y if conv.bias is None else y + conv.bias).to(precision_of(given))


def _out_of_reach(x: Tensor, kernel: int, left: int) -> Tensor:
    """Frames with nothing but zeros (padding) under the kernel: (B, T, 1) bool.

    The convolution is exactly zero there; transforms leave rounding errors, which a LayerNorm would amplify.
    """
    heard = F.pad((x != 0).any(-1).to(x.dtype), (left, kernel - 1 - left))  # (B, T + kernel - 1)
    return F.max_pool1d(heard, kernel, stride=1)[..., None] == 0


def _spectrum(weight: Tensor, groups: int, block: int) -> Tensor:
    """The weights' transform, conjugated: (block // 2 + 1, groups, D / groups in, D / groups out), complex."""
    precise = weight.to(torch.promote_types(weight.dtype, torch.float32))
    spectrum = torch.fft.rfft(precise, n=block).conj()  # (D, D / groups, F)
    return spectrum.unflatten(0, (groups, -1)).permute(3, 0, 2, 1).contiguous()


def _multiply(x: Tensor, spectrum: Tensor, block: int) -> Tensor:
    """Circular correlation of (N, D, up to `block` frames) with the weights: (N, D, block)."""
    x = torch.fft.rfft(x, n=block).unflatten(1, (spectrum.shape[1], -1))  # (N, groups, D / groups, F)
    y = torch.matmul(x.permute(3, 1, 0, 2), spectrum)  # (F, groups, N, D / groups)
    return torch.fft.irfft(y.permute(2, 1, 3, 0).flatten(1, 2), n=block)
