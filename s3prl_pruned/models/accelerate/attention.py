"""Attention without a T x T bias in memory: head by head on a CPU, in one kernel or block by block on a GPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_pruned.models.accelerate.closed_units import Split, gated
from s3prl_pruned.models.accelerate.fused_attention import attend_fused, fused_fits
from s3prl_pruned.models.accelerate.paths import path_for
from s3prl_pruned.models.attention import SelfAttention, gated_bias
from s3prl_pruned.models.components import toeplitz
from s3prl_pruned.models.linear import LowRankLinear, masked, masked_linear

SCORES_AT_A_TIME = 2**28
"""Elements of the gated bias that a GPU holds at once, where `fused_attention` does not compute it: 0.5 GiB in half
precision."""


class FastSelfAttention(SelfAttention):
    """`SelfAttention`: without T x T scores in inference, without the gradients of closed units in training."""

    def forward(self, x: Tensor, position_bias: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        """Attend: (B, T, D) -> (B, T, D).

        Args:
            x: (B, T, D).
            position_bias: as `SelfAttention.forward`, or (H of the dense layer, 2T - 1) by distance.
            padding: as `SelfAttention.forward`.
        """
        return gated(self, self.attend, self.z_mha, x, position_bias, padding)

    def attend(self, x: Tensor, position_bias: Tensor | None, padding: Tensor | None, z_mha: Tensor | None) -> Tensor:
        """As `SelfAttention.attend`."""
        # Where a dimension or its head is closed, no gradient reaches query or key.
        queries = Split.of(self.with_heads(self.z_qk, self.qk_heads, x), self.q_proj, self.k_proj)
        values = Split.of(self.with_heads(self.z_vo, self.vo_heads, x), self.v_proj, self.out_proj)
        if queries is None and values is None:
            return super().attend(x, position_bias, padding, z_mha)
        query = masked(_project(self.q_proj, x, queries), self.z_qk)
        key, value = _project(self.k_proj, x, queries), _project(self.v_proj, x, values)
        context = self.context(query, key, value, x, position_bias, padding)
        z_vo = self.with_heads(self.z_vo, self.vo_heads, x)  # (sum of sizes,)
        if values is not None and z_vo is not None:
            return masked(values.inputs(self.out_proj, *values.parted(context), z_vo), z_mha)
        return masked_linear(self.out_proj, context, inputs=z_vo, outputs=z_mha)

    def context(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        x: Tensor,
        position_bias: Tensor | None,
        padding: Tensor | None,
    ) -> Tensor:
        """As `SelfAttention.context`; with a bias by distance without T x T scores in memory."""
        path = path_for(self, x, x.shape[1])
        if path is None or (position_bias is not None and position_bias.dim() == 3):
            if position_bias is not None and position_bias.dim() == 2:
                position_bias = toeplitz(position_bias)
            return super().context(query, key, value, x, position_bias, padding)
        if fused_fits(x, self.qk_heads.sizes, self.vo_heads.sizes):
            return attend_fused(
                query,
                key,
                value,
                layout=self.layout(),
                widths=(self.qk_heads.width, self.vo_heads.width),
                scale=self.scale,
                bias=position_bias,
                gate=self.gate,
                x=x,
                padding=padding,
            )
        gates = None
        if position_bias is not None:
            position_bias = position_bias.index_select(0, self.heads())
            gates = None if self.gate is None else self.gate(x)  # (B, H, T, 1)
        if x.is_cuda:
            context = attend_in_blocks(
                _widened(self.qk_heads.split(query)),
                _widened(self.qk_heads.split(key)),
                _widened(self.vo_heads.split(value)),
                scale=self.scale,
                bias=position_bias,
                gates=gates,
                padding=padding,
                scores_at_a_time=SCORES_AT_A_TIME,
            )
            return self.vo_heads.merge(context[..., : self.vo_heads.width])
        return attend_by_head(
            query,
            key,
            value,
            qk_sizes=self.qk_heads.sizes,
            vo_sizes=self.vo_heads.sizes,
            scale=self.scale,
            bias=position_bias,
            gates=None if gates is None else gates.squeeze(-1),
            padding=padding,
            queries_at_a_time=path.queries,
        )

    def weights(self, x: Tensor, position_bias: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        """As `SelfAttention.weights`; `position_bias` may be given by distance."""
        if position_bias is not None and position_bias.dim() == 2:
            position_bias = toeplitz(position_bias)
        return super().weights(x, position_bias, padding)


def _project(projection: nn.Linear | LowRankLinear, x: Tensor, split: Split | None) -> Tensor:
    return projection(x) if split is None else split.outputs(projection, x)


def _widened(x: Tensor) -> Tensor:
    """(B, H, T, width), zero-padded to a multiple of 8 dimensions, which torch's attention kernels need."""
    return F.pad(x, (0, -x.shape[-1] % 8))


def attend_in_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    bias: Tensor | None,
    gates: Tensor | None,
    padding: Tensor | None,
    scores_at_a_time: int,
) -> Tensor:
    """Softmax attention, all heads at once, a block of queries at a time: (B, H, T, width of values).

    Args:
        query: (B, H, T, width).
        key: as `query`.
        value: (B, H, T, width), of another width.
        scale: factor on the scores.
        bias: (H, 2T - 1) by distance, key minus query from 1 - T on, for these heads; None for none.
        gates: (B, H, T, 1), on the bias; None for none.
        padding: (B, T) bool, True where a frame must not be attended to; None for none.
        scores_at_a_time: number of scores whose bias is in memory at once.
    """
    batch, heads, frames, _ = query.shape
    rows = max(1, scores_at_a_time // (batch * heads * frames))
    windows = None if bias is None else bias.unfold(-1, frames, 1)  # (H, T, T), a view; the last query comes first
    hidden = None
    if padding is not None:
        hidden = torch.zeros_like(padding, dtype=query.dtype).masked_fill(padding, float("-inf"))[:, None, None, :]
    parts = []
    for start in range(0, frames, rows):
        asked = query[:, :, start : start + rows]
        end, added = start + asked.shape[2], hidden
        if windows is not None:
            of_block = windows[:, frames - end : frames - start].flip(1)  # (H, rows, T)
            if gates is None:
                added = of_block.to(query.dtype) if hidden is None else of_block + hidden
            else:
                added = gated_bias(gates[:, :, start:end], of_block, padding, query.dtype)
        parts.append(F.scaled_dot_product_attention(asked, key, value, added, scale=scale))
    return torch.cat(parts, 2)


def attend_by_head(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    qk_sizes: list[int],
    vo_sizes: list[int],
    scale: float,
    bias: Tensor | None,
    gates: Tensor | None,
    padding: Tensor | None,
    queries_at_a_time: int,
) -> Tensor:
    """Softmax attention of heads of different sizes: flat (B, T, sum of sizes) in and out.

    Args:
        query: (B, T, sum of `qk_sizes`).
        key: as `query`.
        value: (B, T, sum of `vo_sizes`).
        qk_sizes: query/key dimensions of each head.
        vo_sizes: value/output dimensions of each head.
        scale: factor on the scores.
        bias: (H, 2T - 1) by distance, key minus query from 1 - T on, for these heads; None for none.
        gates: (B, H, T), on the bias; None for none.
        padding: (B, T) bool, True where a frame must not be attended to; None for none.
        queries_at_a_time: number of queries whose scores are in memory at once.
    """
    batch, frames, _ = query.shape
    context = torch.empty_like(value)
    size = min(queries_at_a_time, frames)
    scores = query.new_empty(size, frames)
    # With queries in reversed order, the bias of a row begins one distance after that of the row above: a view. The
    # context is in reversed order, too.
    query = query.flip(1)
    gates = None if gates is None else gates.flip(2)
    for b in range(batch):
        qk = vo = 0
        hidden = None if padding is None else padding[b]
        for head, (qk_size, vo_size) in enumerate(zip(qk_sizes, vo_sizes, strict=True)):
            keys, values = key[b, :, qk : qk + qk_size].T, value[b, :, vo : vo + vo_size]
            for start in range(0, frames, size):
                rows = min(size, frames - start)
                asked = query[b, start : start + rows, qk : qk + qk_size]
                part = scores[:rows]
                if bias is None:
                    torch.mm(asked, keys, out=part).mul_(scale)
                else:
                    by_row = bias[head].as_strided((rows, frames), (1, 1), bias[head].storage_offset() + start)
                    if gates is None:
                        part.copy_(by_row)
                    else:
                        torch.mul(gates[b, head, start : start + rows, None], by_row, out=part)
                    part.addmm_(asked, keys, alpha=scale)
                if hidden is not None:
                    part.masked_fill_(hidden, float("-inf"))
                torch.softmax(part, -1, out=part)  # in place, so that half as much is in the cache
                torch.mm(part, values, out=context[b, start : start + rows, vo : vo + vo_size])
            qk, vo = qk + qk_size, vo + vo_size
    return context.flip(1)
