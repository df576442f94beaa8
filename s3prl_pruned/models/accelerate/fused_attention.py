"""Attention of ragged heads in one GPU kernel (Triton): gate, position bias, softmax and context, block by block.

Input and output are the flat dimensions of all heads: nothing is padded, gathered or merged. The bias is made
from its 2T - 1 distances and the gate where it is used, so that memory grows with T and not with T x T (FlashAttention,
Dao et al. 2022, with the online softmax of Milakov and Gimelshein 2018). Its reference is `models/attention.py`.
"""

import os
import shutil
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # a build of torch without it
    triton = None

LARGEST_HEAD = 128
"""Dimensions of a head up to which the kernel's blocks fit a GPU's registers."""

if triton is not None:

    @triton.jit
    def _position_gate(  # type: ignore[no-untyped-def]  # Triton's types are not Python's
        X, WEIGHT, OFFSET, rows, in_rows, scale, ROW: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr
    ):
        """WavLM's gate (`models.attention.PositionGate`) of each row: X points at the head's dimensions."""
        dims = tl.arange(0, WIDTH)
        in_dims = dims < DIM
        x = tl.load(X + rows[:, None] * ROW + dims[None, :], mask=in_rows[:, None] & in_dims[None, :], other=0.0)
        x = x.to(tl.float32)
        first = tl.zeros([WIDTH], tl.float32)
        second = tl.zeros([WIDTH], tl.float32)
        a_offset = 0.0
        b_offset = 0.0
        for i in tl.static_range(4):
            first += tl.load(WEIGHT + i * DIM + dims, mask=in_dims, other=0.0).to(tl.float32)
            second += tl.load(WEIGHT + (4 + i) * DIM + dims, mask=in_dims, other=0.0).to(tl.float32)
            a_offset += tl.load(OFFSET + i).to(tl.float32)
            b_offset += tl.load(OFFSET + 4 + i).to(tl.float32)
        a = tl.sigmoid(tl.sum(x * first[None, :], 1) + a_offset)
        b = tl.sigmoid(tl.sum(x * second[None, :], 1) + b_offset)
        return a * (b * scale - 1.0) + 2.0

    @triton.jit
    def _attend_block(  # type: ignore[no-untyped-def]
        QUERY, KEY, VALUE, CONTEXT, LAYOUT, BIAS, X, WEIGHT, OFFSET, SCALES, PADDING,
        frames, qk_row, vo_row, scale,
        BIASED: tl.constexpr, GATED: tl.constexpr, PADDED: tl.constexpr, PRECISION: tl.constexpr,
        ROW: tl.constexpr, DIM: tl.constexpr, GATE_WIDTH: tl.constexpr,
        QK_WIDTH: tl.constexpr, VO_WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    ):  # fmt: skip
        """A block of queries of one head of one utterance."""
        block, head, utterance = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
        qk_start, qk_size = tl.load(LAYOUT + 5 * head), tl.load(LAYOUT + 5 * head + 1)
        vo_start, vo_size = tl.load(LAYOUT + 5 * head + 2), tl.load(LAYOUT + 5 * head + 3)
        index = tl.load(LAYOUT + 5 * head + 4)
        first = utterance * frames  # the utterance's first row
        rows = block * ROWS + tl.arange(0, ROWS)
        in_rows = rows < frames
        qk, vo = tl.arange(0, QK_WIDTH), tl.arange(0, VO_WIDTH)
        in_qk, in_vo = qk < qk_size, vo < vo_size
        query_at = QUERY + (first + rows)[:, None] * qk_row + qk_start + qk[None, :]
        query = tl.load(query_at, mask=in_rows[:, None] & in_qk[None, :], other=0.0)
        if GATED:
            gate = _position_gate(
                X + first * ROW + index * DIM, WEIGHT, OFFSET, rows, in_rows, tl.load(SCALES + head).to(tl.float32),
                ROW, DIM, GATE_WIDTH,
            )  # fmt: skip
        highest = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        context = tl.zeros([ROWS, VO_WIDTH], tl.float32)
        for start in range(0, frames, KEYS):
            keys = start + tl.arange(0, KEYS)
            heard = keys < frames
            if PADDED:
                heard = heard & (tl.load(PADDING + first + keys, mask=heard, other=1) == 0)
            key_at = KEY + (first + keys)[None, :] * qk_row + qk_start + qk[:, None]
            key = tl.load(key_at, mask=heard[None, :] & in_qk[:, None], other=0.0)
            scores = tl.dot(query, key, input_precision=PRECISION) * scale
            if BIASED:
                distance = keys[None, :] - rows[:, None] + frames - 1
                bias_at = BIAS + index * (2 * frames - 1) + distance
                bias = tl.load(bias_at, mask=heard[None, :] & in_rows[:, None], other=0.0).to(tl.float32)
                if GATED:
                    bias = bias * gate[:, None]
                scores += bias
            scores = tl.where(heard[None, :], scores, float("-inf"))
            higher = tl.maximum(highest, tl.max(scores, 1))
            at_least = tl.where(higher == float("-inf"), 0.0, higher)  # only padding so far
            weights = tl.exp(scores - at_least[:, None])
            kept = tl.exp(highest - at_least)
            total = total * kept + tl.sum(weights, 1)
            value_at = VALUE + (first + keys)[:, None] * vo_row + vo_start + vo[None, :]
            value = tl.load(value_at, mask=heard[:, None] & in_vo[None, :], other=0.0)
            heard_now = tl.dot(weights.to(value.dtype), value, input_precision=PRECISION)
            context = context * kept[:, None] + heard_now
            highest = higher
        context = context / total[:, None]
        context_at = CONTEXT + (first + rows)[:, None] * vo_row + vo_start + vo[None, :]
        tl.store(context_at, context.to(CONTEXT.dtype.element_ty), mask=in_rows[:, None] & in_vo[None, :])


def fused_fits(x: Tensor, qk_sizes: list[int], vo_sizes: list[int]) -> bool:
    """Whether the kernel computes heads of these sizes, on this device and in this precision."""
    known = x.is_cuda and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return known and max(*qk_sizes, *vo_sizes) <= LARGEST_HEAD and _can_compile()


@lru_cache(maxsize=1)
def _can_compile() -> bool:
    """Whether Triton and the C compiler that it calls are installed."""
    return triton is not None and any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang")))


def attend_fused(
    query: Tensor, key: Tensor, value: Tensor, *, layout: Tensor, widths: tuple[int, int], scale: float,
    bias: Tensor | None, gate: Any, x: Tensor, padding: Tensor | None,
) -> Tensor:  # fmt: skip
    """Softmax attention of heads of different sizes: flat (B, T, sum of sizes) in and out. Without gradients.

    Args:
        query: (B, T, sum of query/key sizes).
        key: as `query`.
        value: (B, T, sum of value/output sizes).
        layout: (5 H,) int64: for each head the first query/key dimension, their number, the same for value/output, and
            its index in the dense layer.
        widths: the largest query/key and value/output size.
        scale: factor on the scores.
        bias: (heads of the dense layer, 2T - 1) by distance, key minus query from 1 - T on; None for none.
        gate: the layer's `PositionGate`, or None.
        x: (B, T, D), which the gate reads.
        padding: (B, T) bool, True where a frame must not be attended to; None for none.
    """
    query, key, value, x = query.contiguous(), key.contiguous(), value.contiguous(), x.contiguous()
    batch, frames, _ = query.shape
    context = torch.empty_like(value)
    exact = query.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    rows = 64 if frames > 64 else 32
    gated = bias is not None and gate is not None
    dim = gate.head_dim if gated else 1
    weights = (gate.projection.weight, gate.projection.bias, gate.scale) if gated else (query,) * 3
    with torch.cuda.device_of(query):  # Triton launches on the current device
        _attend_block[(triton.cdiv(frames, rows), layout.numel() // 5, batch)](
            query,
            key,
            value,
            context,
            layout,
            query if bias is None else bias.contiguous(),
            x,
            *weights,
            query if padding is None else padding.contiguous().view(torch.uint8),
            frames,
            query.shape[-1],
            value.shape[-1],
            scale,
            BIASED=bias is not None,
            GATED=gated,
            PADDED=padding is not None,
            PRECISION="ieee" if exact else "tf32",
            ROW=x.shape[-1],
            DIM=dim,
            GATE_WIDTH=_power_of_two(dim),
            QK_WIDTH=_power_of_two(widths[0]),
            VO_WIDTH=_power_of_two(widths[1]),
            ROWS=rows,
            KEYS=32 if exact else 64,
            num_warps=4,
            num_stages=2,
        )
    return context


def _power_of_two(size: int) -> int:
    """The next power of two, at least 16, as matrix units need."""
    return max(16, 1 << (size - 1).bit_length())
