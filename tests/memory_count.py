"""Counts the memory of a training step on a GPU without a GPU: no arithmetic, and CUDA's rules where a CPU's differ.

Tensors are fake (shapes and types only). For WavLM Base at 24 x 15.6 s, half precision, this counted 26.6 GiB at a
commit for which an NVIDIA H200's allocator had 26.5 GiB.
"""

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from s3prl_pruned.models import components
from s3prl_pruned.models.accelerate import accelerate, closed_units
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.masks import LAYER_KINDS, Masks, SlotTable
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.objectives.distill import DistillConfig, LayerDistillation
from s3prl_pruned.pretrain import expert
from s3prl_pruned.timing.memory import LiveBytes

HALF = torch.bfloat16  # a CPU's autocast has no fp16; the sizes are the same


class _MemoryEfficientAttention(torch.autograd.Function):
    """The tensors that the kernel keeps: its arguments, its output, and a log-sum-exp per query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        batch, heads, frames, _ = query.shape
        out = query.new_empty(batch, frames, heads, value.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(query, key, value, bias, out, query.new_empty(batch, heads, frames, dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias, *_ = ctx.saved_tensors
        of_bias = torch.empty_like(bias) if ctx.needs_input_grad[3] else None
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), of_bias


class LikeCuda(TorchFunctionMode):
    """CUDA's fp32 functions under autocast, its dropout (which keeps a bool mask) and its attention, on a CPU."""

    IN_FP32 = (F.layer_norm, F.group_norm, Tensor.sum, torch.sum, F.cosine_similarity)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        autocast = torch.is_autocast_enabled("cpu")
        if func in self.IN_FP32 and autocast:
            args = tuple(a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)
            with torch.autocast("cpu", enabled=False):
                return func(*args, **kwargs)
        if func is F.dropout and kwargs["p"] > 0 and kwargs["training"]:
            return torch.native_dropout(args[0], kwargs["p"], True)[0]
        if func is F.scaled_dot_product_attention:
            query, key, value, bias = (a if a is None or not autocast else a.to(HALF) for a in args[:4])
            bias = None if bias is None else bias.expand(*query.shape[:3], key.shape[2])
            return _MemoryEfficientAttention.apply(query, key, value, bias)
        if func is Tensor.nonzero:
            return torch.arange(args[0].numel()).unsqueeze(1)  # every frame is valid
        return func(*args, **kwargs)


class _LiveFakes(LiveBytes):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "prim":
            return func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._find(tensor)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._made(tensor)
        return result

    @property
    def now(self) -> int:
        """Live bytes that were allocated since the start."""
        return self._now


@dataclass
class Counted:
    """Counted bytes."""

    cnn: int
    """Kept by the student's CNN."""
    layers: int
    """Kept by the layers after the CNN."""
    total: int
    """The peak of a whole step, weights and the optimiser's moments included."""


def count(
    shape: EncoderConfig, *, utterances: int, seconds: float, half: bool = True, checkpointing: bool = False
) -> Counted:
    """Count a first step of distillation with all kinds of masks in the layers."""
    patched = {module: module.checkpoint for module in (components, expert)}
    share = dict(closed_units.SHARE_THAT_PAYS)
    try:
        closed_units.SHARE_THAT_PAYS.clear()
        for module in patched:  # modes are not active in the backward pass by themselves
            module.checkpoint = partial(checkpoint, context_fn=lambda: (nullcontext(), LikeCuda()))
        with FakeTensorMode():
            return _count(shape, utterances, round(seconds * 16_000), half=half, checkpointing=checkpointing)
    finally:
        closed_units.SHARE_THAT_PAYS.update(share)
        for module, original in patched.items():
            module.checkpoint = original


def _count(shape: EncoderConfig, utterances: int, samples: int, *, half: bool, checkpointing: bool) -> Counted:
    silent = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    teacher = SpeechEncoder(replace(shape, **silent)).eval().requires_grad_(False)
    student = accelerate(SpeechEncoder(shape)).train()
    if checkpointing:
        expert.checkpoint_activations(student)
    distillation = LayerDistillation(
        num_layers=shape.num_layers, embed_dim=shape.embed_dim, config=DistillConfig(num_pairs=min(4, shape.num_layers))
    )
    table = SlotTable.of(student.spec, tuple(kind for kind in LAYER_KINDS if kind != "head"))
    student.set_masks(Masks(table, torch.ones(table.total, requires_grad=True)))
    trained = [*student.parameters(), *distillation.parameters()]
    wavs = torch.randn(utterances, samples)
    with _LiveFakes([*teacher.parameters(), *trained, wavs]) as live, LikeCuda():
        with torch.autocast("cpu", dtype=HALF, enabled=half):
            kept, loss = _forward(teacher, student, distillation, wavs, live)
        torch.autograd.backward([loss])
    moments = 2 * 4 * sum(parameter.numel() for parameter in trained)
    return Counted(*kept, total=live.peak + moments)


def _forward(teacher, student, distillation, wavs: Tensor, live: _LiveFakes) -> tuple[list[int], Tensor]:
    with torch.no_grad():
        targets = teacher(wavs).hidden_states
    marks = [live.now]
    features = student.feature_extractor(wavs)
    marks.append(live.now)
    states = student(wavs, features=features).hidden_states
    marks.append(live.now)
    valid = torch.ones(states[0].shape[:2], dtype=torch.bool)
    distillation.errors(states, targets, valid)
    pairs = [(k, state - 1) for k, state in enumerate(distillation.teacher_layers)]
    loss = distillation(states, targets, valid, pairs).sum()
    return [after - before for before, after in itertools.pairwise(marks)], loss
