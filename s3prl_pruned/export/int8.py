"""An encoder whose large linear maps compute in 8-bit integers, for inference on a CPU.

torch's own `torch.ao.quantization.quantize_dynamic` does the like with one scale for all activations; it is deprecated
and warns so, was as fast here, and twice as far off. torchao's eager form computes what stands below, with the same kernel.
"""

import copy

import torch
from torch import Tensor, nn

from s3prl_pruned.config import UserError
from s3prl_pruned.models.encoder import SpeechEncoder

SMALLEST = 1024
"""Weights below which a linear map stays in fp32: quantising its input would cost more than the product saves."""


class Int8Linear(nn.Module):
    """`nn.Linear` with int8 weights and dynamically quantised input: (..., in_features) -> (..., out_features), fp32.

    Vector-wise symmetric quantisation (Dettmers et al. 2022, section 2.1, without its outlier part): one scale per output
    dimension, and one per input vector, found when it comes. No calibration is needed. The product of integers is exact.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scale = _scale(weight)  # (out, 1)
        self.register_buffer("weight_int8", (weight / scale).round().to(torch.int8).t().contiguous())  # (in, out)
        self.register_buffer("scale", scale.flatten())
        self.register_buffer("bias", torch.zeros_like(self.scale) if linear.bias is None else linear.bias.detach().float().clone())

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        scale = _scale(rows)  # (rows, 1)
        product = torch._int_mm((rows / scale).round_().to(torch.int8), self.weight_int8)  # int32, (rows, out)
        return torch.addcmul(self.bias, product.float().mul_(scale), self.scale).view(*x.shape[:-1], -1)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def _scale(rows: Tensor) -> Tensor:
    """What +-127 stands for: (n, K) -> (n, 1)."""
    return rows.abs().amax(-1, keepdim=True).clamp_(min=1e-12) / 127


def quantize_int8(encoder: SpeechEncoder) -> SpeechEncoder:
    """A copy of an encoder with int8 linear maps in attention, feed-forward and projection; the rest stays fp32.

    Only inference is served. Its state dict is not one of `SpeechEncoder`: save the fp32 encoder and quantise after
    loading. On a CPU without AVX-512 VNNI or AMX it may be slower than fp32.

    Args:
        encoder: dense or compact, fp32, on the CPU, in evaluation mode.

    Raises:
        UserError: it is none of that.
    """
    parameter = next(encoder.parameters())
    if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
        raise UserError(f"int8 is made of an fp32 encoder on the CPU, but this is {parameter.dtype} on {parameter.device}.")
    if encoder.training:
        raise UserError("int8 serves inference only, but the encoder is in training mode. Call eval() on it.")
    small = copy.deepcopy(encoder)
    for module in list(small.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and child.weight.numel() >= SMALLEST:
                setattr(module, name, Int8Linear(child))
    return small
