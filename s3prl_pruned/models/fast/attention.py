"""Attention head by head, a block of queries at a time: ragged heads as they are, no bias of T x T in memory."""

import torch
from torch import Tensor


def attend(
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
        query, key: (B, T, sum of `qk_sizes`).
        value: (B, T, sum of `vo_sizes`).
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
        for head, (qk_size, vo_size) in enumerate(zip(qk_sizes, vo_sizes)):
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
