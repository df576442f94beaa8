"""Attention head by head, a block of queries at a time: ragged heads as they are, no bias of T x T in memory."""

import torch
from torch import Tensor, nn

from s3prl_pruned.models.accelerate.closed_units import Split, gated
from s3prl_pruned.models.accelerate.paths import path_for
from s3prl_pruned.models.attention import SelfAttention
from s3prl_pruned.models.components import toeplitz
from s3prl_pruned.models.linear import LowRankLinear, masked, masked_linear


class FastSelfAttention(SelfAttention):
    """`SelfAttention`: head by head in inference; in training without the gradients of closed units."""

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
        is_masked = any(mask is not None for mask in (self.z_qk, self.z_vo, self.z_head))
        path = None if is_masked or not self.vo_heads.sizes else path_for(self, x, x.shape[1])
        if path is not None and (position_bias is None or position_bias.dim() == 2):
            return masked(self.out_proj(self.context_by_head(x, position_bias, padding, path.queries)), z_mha)
        if position_bias is not None and position_bias.dim() == 2:
            position_bias = toeplitz(position_bias)
        # Where a dimension or its head is closed, no gradient reaches query or key.
        queries = Split.of(self.with_heads(self.z_qk, self.qk_heads, x), self.q_proj, self.k_proj)
        values = Split.of(self.with_heads(self.z_vo, self.vo_heads, x), self.v_proj, self.out_proj)
        if queries is None and values is None:
            return super().attend(x, position_bias, padding, z_mha)
        query = self.qk_heads.split(masked(_project(self.q_proj, x, queries), self.z_qk))  # (B, H, T, width)
        key = self.qk_heads.split(_project(self.k_proj, x, queries))
        value = self.vo_heads.split(_project(self.v_proj, x, values))
        context = self.vo_heads.merge(self.mix(query, key, value, self.bias_of(x, position_bias, padding)))
        z_vo = self.with_heads(self.z_vo, self.vo_heads, x)  # (sum of sizes,)
        if values is not None and z_vo is not None:
            return masked(values.inputs(self.out_proj, *values.parted(context), z_vo), z_mha)
        return masked_linear(self.out_proj, context, inputs=z_vo, outputs=z_mha)

    def context_by_head(
        self, x: Tensor, by_distance: Tensor | None, padding: Tensor | None, queries_at_a_time: int
    ) -> Tensor:
        """What the output projection reads, (B, T, sum of value/output sizes), without T x T scores in memory.

        Args:
            x: (B, T, D).
            by_distance: (H of the dense layer, 2T - 1), the position bias; None for none.
            padding: (B, T) bool, True where a frame must not be attended to; None for none.
            queries_at_a_time: their scores are in memory at once.
        """
        gates = None
        if by_distance is not None:
            by_distance = by_distance.index_select(0, self.heads())
            gates = None if self.gate is None else self.gate(x).squeeze(-1)  # (B, H, T)
        return attend_by_head(
            self.q_proj(x),
            self.k_proj(x),
            self.v_proj(x),
            qk_sizes=self.qk_heads.sizes,
            vo_sizes=self.vo_heads.sizes,
            scale=self.scale,
            bias=by_distance,
            gates=gates,
            padding=padding,
            queries_at_a_time=queries_at_a_time,
        )

    def weights(self, x: Tensor, position_bias: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        """As `SelfAttention.weights`; `position_bias` may be given by distance."""
        if position_bias is not None and position_bias.dim() == 2:
            position_bias = toeplitz(position_bias)
        return super().weights(x, position_bias, padding)


def _project(projection: nn.Linear | LowRankLinear, x: Tensor, split: Split | None) -> Tensor:
    return projection(x) if split is None else split.outputs(projection, x)


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
        scale: of the scores.
        bias: (H, 2T - 1) by distance, key minus query from 1 - T on, for these heads; None for none.
        gates: (B, H, T), on the bias; None for none.
        padding: (B, T) bool, True where a frame must not be attended to; None for none.
        queries_at_a_time: their scores are in memory at once.
    """
    batch, frames, _ = query.shape
    context = torch.empty_like(value)
    size = min(queries_at_a_time, frames)
    scores = query.new_empty(size, frames)
    # In reversed order of the queries, the bias of a row begins one distance later than that of the row above: a view.
    # The context comes in that order, too.
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
                torch.softmax(part, -1, out=part)  # row by row: in place, and half as much in the cache
                torch.mm(part, values, out=context[b, start : start + rows, vo : vo + vo_size])
            qk, vo = qk + qk_size, vo + vo_size
    return context.flip(1)
