"""Training steps with fewer kernel launches: through torch.compile, and with a teacher in half precision.

Each layer and each CNN of the encoders is compiled as a whole; the rest is not. Fused, a layer launches a few kernels
instead of a hundred.

A compiler specialises its kernels to the shapes that it sees first. A resumed run must compute with the same kernels
as one that was never interrupted. Therefore modules are compiled either for each length separately
(`datarc.crop_lengths`), or for all lengths, by a warm-up with noise whose shape depends only on the recipe (`warm_up`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from s3prl_pruned.models.encoder import SpeechEncoder

_MOST_VARIANTS = 64
"""Compilations per module: teacher and student, masks with and without gradients, ragged layers, the lengths of
`datarc.crop_lengths`. Beyond torch's default limit (8), a module would run uncompiled without a warning."""


def compile_encoders(*encoders: SpeechEncoder, few_lengths: bool) -> None:
    """Compile the layers and the CNN of each encoder at their first call. Masks, hooks and parameters keep working.

    Args:
        encoders: changed in place.
        few_lengths: compile for each length separately; else kernels serve all lengths (see `warm_up`).
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_VARIANTS)
    for encoder in encoders:
        modules: list[nn.Module] = [encoder.feature_extractor, *encoder.layers]
        for module in modules:
            compiled = torch.compile(module.forward, dynamic=False if few_lengths else None)
            module.forward = compiled if few_lengths else partial(_of_any_length, compiled)


def _of_any_length(compiled: Callable[..., Tensor], *inputs: Tensor | None, **more: Any) -> Tensor:
    """Call a compiled forward pass so that it is compiled for any number of utterances and frames (or samples).

    Args:
        compiled: forward pass of a layer or of the CNN.
        inputs: (B, S); or (B, T, D), position bias (H, T, T) or None, padding (B, T) or None.
        more: further arguments, passed on.
    """
    for tensor, dims in zip(inputs, ((0, 1), (1, 2), (0, 1)), strict=False):
        if tensor is not None:
            torch._dynamo.maybe_mark_dynamic(tensor, dims)
    return compiled(*inputs, **more)


def warm_up(teacher: SpeechEncoder | None, student: SpeechEncoder, wavs: Tensor, *, shares_features: bool) -> None:
    """Compile the encoders by a forward and backward pass that has no other effect.

    Args:
        teacher: None without a teacher.
        student: with masks of the kind to compile for; gets gradients, which the caller drops.
        wavs: (B, S), noise.
        shares_features: whether the student uses the output of the teacher's CNN.
    """
    devices = [wavs.device] if wavs.is_cuda else []
    with torch.random.fork_rng(devices):  # so that dropout draws the same numbers in training
        features = None
        if teacher is not None:
            with torch.no_grad():
                features = teacher.feature_extractor(wavs)
                teacher(wavs, features=features)
        states = student(wavs, features=features if shares_features else None).hidden_states
        torch.stack([state.float().square().mean() for state in states]).sum().backward()


def round_weights(teacher: SpeechEncoder, precision: torch.dtype) -> None:
    """Round a teacher's matrices and convolutions to half precision once, as autocast would at every use.

    Norms, embeddings and the positional convolution are computed in fp32, and are not changed.

    Args:
        teacher: changed in place; it is never trained or saved.
        precision: half precision of the run.
    """
    for name, module in teacher.named_modules():
        if type(module) in (nn.Linear, nn.Conv1d) and not name.startswith("positional_convolution"):
            module.to(precision)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled modules uncompiled within this context: for shapes and modes other than those of training."""
    with torch.compiler.set_stance("force_eager"):
        yield
