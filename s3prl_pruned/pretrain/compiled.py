"""Training steps that launch fewer kernels: under torch.compile, and with a teacher in half precision.

Layers and CNNs of the encoders are compiled, each as a whole; the rest runs as it is written. Fused, a layer launches a
few kernels where it launched a hundred.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from s3prl_pruned.models.encoder import SpeechEncoder

STEPS_OF_COMPILING = 2
"""Of lengths that vary: kernels for the first, then such as serve all others too."""
_MOST_VARIANTS = 64
"""Of one module: teacher and student, masks with and without gradients, ragged layers, the lengths of
`datarc.crop_lengths`. Beyond torch's own limit (8) a module would go on uncompiled in silence."""


def compile_encoders(*encoders: SpeechEncoder, few_lengths: bool) -> None:
    """Let the layers and the CNN of each be compiled when they are called. Masks, hooks and parameters stay theirs.

    Args:
        encoders: in place.
        few_lengths: kernels for each length by itself; else a second length makes some that serve all lengths.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_VARIANTS)
    for encoder in encoders:
        modules: list[nn.Module] = [encoder.feature_extractor, *encoder.layers]
        for module in modules:
            module.forward = torch.compile(module.forward, dynamic=False if few_lengths else None)


def round_weights(teacher: SpeechEncoder, precision: torch.dtype) -> None:
    """Round a teacher's matrices and convolutions to half precision once, as autocast does at every use of them.

    Norms, embeddings and the positional convolution, which are computed in fp32, are left as they are.

    Args:
        teacher: in place; never trained and never saved.
        precision: of the run.
    """
    for name, module in teacher.named_modules():
        if type(module) in (nn.Linear, nn.Conv1d) and not name.startswith("positional_convolution"):
            module.to(precision)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Within it, what is compiled runs as written: for passes of other shapes and modes than training's."""
    with torch.compiler.set_stance("force_eager"):
        yield
