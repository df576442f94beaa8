"""Training steps that launch fewer kernels: under torch.compile, and with a teacher in half precision.

Layers and CNNs of the encoders are compiled, each as a whole; the rest runs as it is written. Fused, a layer launches a
few kernels where it launched a hundred.

A compiler fits its kernels to the shapes that it sees first. So that a run that goes on computes with the same kernels
as one that was never interrupted, they are compiled either for each length by itself (`datarc.crop_lengths`), or for
all lengths, by a warm-up with noise of one shape that depends on the recipe alone (`warm_up`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from s3prl_pruned.models.encoder import SpeechEncoder

_MOST_VARIANTS = 64
"""Of one module: teacher and student, masks with and without gradients, ragged layers, the lengths of
`datarc.crop_lengths`. Beyond torch's own limit (8) a module would go on uncompiled in silence."""


def compile_encoders(*encoders: SpeechEncoder, few_lengths: bool) -> None:
    """Let the layers and the CNN of each be compiled when they are called. Masks, hooks and parameters stay theirs.

    Args:
        encoders: in place.
        few_lengths: kernels for each length by itself; else such as serve all lengths, which `warm_up` makes.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_VARIANTS)
    for encoder in encoders:
        modules: list[nn.Module] = [encoder.feature_extractor, *encoder.layers]
        for module in modules:
            compiled = torch.compile(module.forward, dynamic=False if few_lengths else None)
            module.forward = compiled if few_lengths else partial(_of_any_length, compiled)


def _of_any_length(compiled: Callable[..., Tensor], *inputs: Tensor | None, **more: Any) -> Tensor:
    """Call it so that it is compiled for any number of utterances and frames (or samples).

    Args:
        compiled: the forward pass of a layer or of the CNN.
        inputs: (B, S); or (B, T, D), position bias (H, T, T) or None, padding (B, T) or None.
        more: passed on.
    """
    for tensor, dims in zip(inputs, ((0, 1), (1, 2), (0, 1)), strict=False):
        if tensor is not None:
            torch._dynamo.maybe_mark_dynamic(tensor, dims)
    return compiled(*inputs, **more)


def warm_up(teacher: SpeechEncoder | None, student: SpeechEncoder, wavs: Tensor, *, shares_features: bool) -> None:
    """Let the encoders be compiled by a pass there and back, which leaves nothing but kernels.

    Args:
        teacher: None where there is none.
        student: with the masks that kernels are for; gets gradients, which the caller drops.
        wavs: (B, S), noise.
        shares_features: whether the teacher's CNN is the student's too.
    """
    devices = [wavs.device] if wavs.is_cuda else []
    with torch.random.fork_rng(devices):  # dropout draws in training what it would have drawn
        features = None
        if teacher is not None:
            with torch.no_grad():
                features = teacher.feature_extractor(wavs)
                teacher(wavs, features=features)
        states = student(wavs, features=features if shares_features else None).hidden_states
        torch.stack([state.float().square().mean() for state in states]).sum().backward()


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
