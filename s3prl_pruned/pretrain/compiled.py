"""Training steps under torch.compile: layers and CNNs of the encoders, the rest as it is written.

Compiled are modules, each as a whole: fused, a layer launches a few kernels where it launched a hundred. A second shape
makes their kernels serve all shapes (torch's automatic dynamic shapes), so that a corpus of many lengths is compiled
for twice and not for ever.
"""

import torch
from torch import nn

from s3prl_pruned.models.encoder import SpeechEncoder

SHAPES_COMPILED_FOR = 2
"""A first one, then all others."""
_MOST_KERNELS = 64
"""Variants of one module: teacher and student, masks with and without gradients, ragged layers. Beyond torch's own
limit (8) it would go on uncompiled in silence."""


def compile_encoders(*encoders: SpeechEncoder) -> None:
    """Let the layers and the CNN of each be compiled at their first call. Masks, hooks and parameters stay theirs."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_KERNELS)
    for encoder in encoders:
        module: nn.Module
        for module in (encoder.feature_extractor, *encoder.layers):
            module.forward = torch.compile(module.forward)  # type: ignore[method-assign]  # wraps it


def uncompiled() -> "torch.compiler.set_stance":
    """Within it, what is compiled runs as written: for passes of other shapes and modes than training's."""
    return torch.compiler.set_stance("force_eager")
