"""An encoder whose convolutions and large linear maps compute in 8-bit integers, for inference on a CPU.

torch's own `torch.ao.quantization.quantize_dynamic` is similar, with one scale for all activations; it is deprecated
and warns, was as fast here, and had twice the error. torchao's eager mode computes the same as the code below, with the
same kernel.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_pruned.config import UserError
from s3prl_pruned.models.accelerate import accelerate
from s3prl_pruned.models.accelerate.cnn import extract_features, rows_of, windows
from s3prl_pruned.models.accelerate.paths import Derived, Path, path_for
from s3prl_pruned.models.cnn import FeatureExtractor
from s3prl_pruned.models.components import Stack
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.log_mel import LogMelExtractor

SMALLEST = 1024
"""Number of weights below which a linear map stays in fp32, since quantising would cost more than it saves."""


class Int8Linear(nn.Module):
    """`nn.Linear` with int8 weights and dynamically quantised input: (..., in_features) -> (..., out_features), fp32.

    Vector-wise symmetric quantisation (Dettmers et al. 2022, section 2.1, without its outlier part): one scale per
    output dimension, and one per input vector, computed at run time. No calibration is needed. The integer product
    is exact.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        weight = weight.detach().float()
        scale = _scale(weight)  # (out, 1)
        small = (weight / scale).round().to(torch.int8).t().contiguous()  # (in, out)
        self.weight_int8 = nn.Parameter(small, requires_grad=False)
        self.scale: Tensor
        self.bias: Tensor
        self.register_buffer("scale", scale.flatten())
        if bias is None:
            self.register_buffer("bias", torch.zeros_like(self.scale), persistent=False)
        else:
            self.bias = nn.Parameter(bias.detach().float().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        rows = x.reshape(-1, self.in_features)
        scale = _scale(rows)  # (rows, 1)
        product = torch._int_mm((rows / scale).round_().to(torch.int8), self.weight_int8)  # int32, (rows, out)
        return torch.addcmul(self.bias, product.float().mul_(scale), self.scale).view(*x.shape[:-1], -1)

    def extra_repr(self) -> str:
        """What a printed model shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class Int8Convolution(nn.Module):
    """`nn.Conv1d` as an `Int8Linear` over its windows: (frames, C_in) -> (windows, C_out), fp32.

    One scale per window: one for a whole stretch of frames was 1.4 times as fast, but had 20 times the error on a
    trained CNN, whose loudest channel is 60 times the mean (LOG.md).
    """

    def __init__(self, conv: nn.Conv1d):
        super().__init__()
        self.kernel, self.stride = conv.kernel_size[0], conv.stride[0]
        self.product = Int8Linear(rows_of(conv).T, conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(frames, C_in) -> (windows, C_out)."""
        return self.product(windows(x, self.kernel, self.stride))


class Int8FeatureExtractor(nn.Module):
    """The CNN with int8 convolutions, the first one (of a single input channel) in fp32: (B, S) -> (B, T, C).

    Takes over `extractor`, and removes its fp32 weights.
    """

    def __init__(self, extractor: FeatureExtractor):
        super().__init__()
        self.fp32 = extractor
        self.derived = Derived()
        later = list(extractor.layers)[1:]
        self.products: Stack[Int8Convolution] = Stack(Int8Convolution(layer.conv) for layer in later)
        for layer in later:
            layer.conv.weight = nn.Parameter(torch.empty(0), requires_grad=False)  # replaced by its int8 form

    def forward(self, wavs: Tensor) -> Tensor:
        """(B, S) -> (B, T, C)."""
        path = _refuse_training(self, wavs, self.fp32)
        return extract_features(
            self.fp32.layers, wavs, self.derived, frames_at_a_time=path.cnn_frames // 2, products=list(self.products)
        )


class Int8PaddedConvolution(nn.Module):
    """`nn.Conv1d` that pads with zeros, by `Int8Convolution`: (B, C_in, S) -> (B, C_out, S_out), fp32."""

    def __init__(self, conv: nn.Conv1d):
        super().__init__()
        self.padding = int(conv.padding[0])
        self.out_channels = conv.out_channels
        self.convolution = Int8Convolution(conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, S) -> (B, C_out, S_out)."""
        rows = F.pad(x.transpose(1, 2), (0, 0, self.padding, self.padding)).contiguous()  # (B, S + padding, C_in)
        return torch.stack([self.convolution(row) for row in rows]).transpose(1, 2)


class Int8LogMelExtractor(nn.Module):
    """Log-mel spectrum in fp32 and int8 convolutions: (B, S) -> (B, T, C). Takes over `extractor`."""

    def __init__(self, extractor: LogMelExtractor):
        super().__init__()
        self.fp32 = extractor
        for layer in extractor.layers:
            layer.set_submodule("conv", Int8PaddedConvolution(layer.conv))

    def forward(self, wavs: Tensor) -> Tensor:
        """(B, S) -> (B, T, C)."""
        _refuse_training(self, wavs, self.fp32)
        return self.fp32(wavs)


def _refuse_training(module: nn.Module, wavs: Tensor, extractor: FeatureExtractor) -> Path:
    path = path_for(module, wavs, extractor.num_frames(wavs.shape[-1]))
    if path is None or wavs.dtype not in (torch.float32, torch.float64):
        raise UserError(
            "int8 serves inference on a CPU only: call it under torch.inference_mode(), on fp32 audio, in eval()."
        )
    return path


def _int8_extractor(extractor: FeatureExtractor) -> nn.Module:
    if isinstance(extractor, LogMelExtractor):
        return Int8LogMelExtractor(extractor)
    return Int8FeatureExtractor(extractor)


def _scale(rows: Tensor) -> Tensor:
    """Value of one integer step in each row, so that its largest magnitude is 127 steps: (n, K) -> (n, 1)."""
    return rows.abs().amax(-1, keepdim=True).clamp_(min=1e-12) / 127


def quantize_int8(encoder: SpeechEncoder) -> SpeechEncoder:
    """A copy of an encoder with int8 convolutions in the CNN and int8 linear maps; the rest stays fp32.

    It serves inference only. Its state dict is not one of `SpeechEncoder`: save the fp32 encoder and quantise after
    loading. On a CPU without AVX-512 VNNI or AMX it may be slower than fp32.

    Args:
        encoder: dense or compact, fp32, on the CPU, in evaluation mode.

    Raises:
        UserError: the encoder is not of that kind.
    """
    if is_int8(encoder):
        raise UserError("the encoder is int8 already.")
    parameter = next(encoder.parameters())
    if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
        raise UserError(
            f"int8 is made of an fp32 encoder on the CPU, but this is {parameter.dtype} on {parameter.device}."
        )
    if encoder.training:
        raise UserError("int8 serves inference only, but the encoder is in training mode. Call eval() on it.")
    small = accelerate(copy.deepcopy(encoder))
    for module in list(small.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and child.weight.numel() >= SMALLEST:
                setattr(module, name, Int8Linear(child.weight, child.bias))
    small.set_submodule("feature_extractor", _int8_extractor(small.feature_extractor))
    return small.eval()


def is_int8(encoder: SpeechEncoder) -> bool:
    """Whether `quantize_int8` made it."""
    return isinstance(encoder.get_submodule("feature_extractor"), (Int8FeatureExtractor, Int8LogMelExtractor))
