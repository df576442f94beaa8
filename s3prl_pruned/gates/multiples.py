"""Unit counts in multiples of a number, or whole heads: structures that suit GPUs and other formats.

Units are counted in groups: the query/key dimensions of a head, its value/output dimensions, the intermediate
dimensions of a feed-forward, the channels of a layer of the CNN.
"""

import torch
from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec

WHOLE_HEADS = "head"
"""In place of a number: a head keeps all its dimensions, or none."""
GROUPED_KINDS = ("qk", "vo", "int", "conv")
"""Kinds of masks whose units are counted in groups."""
_TITLES = {"qk": "query/key dimensions", "vo": "value/output dimensions", "int": "FFN dimensions", "conv": "channels"}


def in_words(multiple: int | str | None) -> str:
    """Text to append on the screen or in a model card: `, units in multiples of 8`, or nothing."""
    if multiple is None:
        return ""
    return ", whole heads" if multiple == WHOLE_HEADS else f", units in multiples of {multiple}"


def group_sizes(spec: CompactSpec, shape: EncoderConfig | None, kind: str) -> list[list[int]]:
    """The sizes of a kind's groups, by layer (`conv`: by layer of the CNN that has masks).

    Args:
        spec: the encoder's structure.
        shape: its dense shape; only the kind `conv` needs it.
        kind: one of `GROUPED_KINDS`.
    """
    if kind == "conv":
        assert shape is not None
        return [[size] for size in spec.conv_mask_sizes(shape) if size]
    if kind == "int":
        return [[len(layer.ffn)] for layer in spec.layers]
    return [[len(getattr(head, kind)) for head in layer.heads] for layer in spec.layers]


def refuse_multiple(
    multiple: int | str | None, learned: tuple[str, ...], spec: CompactSpec, shape: EncoderConfig
) -> None:
    """Raise UserError if an encoder cannot be pruned to multiples, whatever its gates decide.

    Args:
        multiple: a number, `WHOLE_HEADS`, or None, which is always possible.
        learned: kinds that have gates.
        spec: the encoder's structure.
        shape: its dense shape.
    """
    if isinstance(multiple, str):
        _refuse_cut_heads(spec, shape)
    elif multiple is not None:
        for kind in GROUPED_KINDS:
            if kind in learned or kind != "conv":  # a CNN without gates is not pruned
                _refuse_sizes(multiple, kind, group_sizes(spec, shape, kind), learned=kind in learned)


def _refuse_cut_heads(spec: CompactSpec, shape: EncoderConfig) -> None:
    for i, layer in enumerate(spec.layers):
        for head in layer.heads:
            if not len(head.qk) == len(head.vo) == shape.head_dim:
                raise UserError(
                    f"`dims_multiple` is head, but head {head.index} of layer {i} has {len(head.qk)} query/key and "
                    f"{len(head.vo)} value/output dimensions of {shape.head_dim} already. Start from a model with "
                    "whole heads."
                )


def _refuse_sizes(multiple: int, kind: str, sizes: list[list[int]], *, learned: bool) -> None:
    flat = [size for layer in sizes for size in layer]
    too_small = any if kind == "conv" else all  # a CNN layer must keep something; a head or an FFN may vanish
    if learned and flat and too_small(size < multiple for size in flat):
        raise UserError(
            f"`dims_multiple` is {multiple}, but this encoder has {_TITLES[kind]} in groups of {min(flat)}"
            f"{'' if min(flat) == max(flat) else f' to {max(flat)}'}, of which no such multiple can stay. Lower it."
        )
    for i, layer in enumerate(sizes):
        uneven = [size for size in layer if size % multiple]
        if uneven and not learned:
            raise UserError(
                f"`dims_multiple` is {multiple}, but layer {i} has {uneven[0]} {_TITLES[kind]} in a group, and no gate "
                f"prunes them. Add the kind `{kind}`, or lower `dims_multiple`."
            )


def rounded_to(count: Tensor, multiple: int) -> Tensor:
    """`count` rounded to the nearest multiple, halves up, in its own dtype."""
    return torch.floor(count / multiple + 0.5).to(count.dtype) * multiple


def ranks(scores: Tensor, group: Tensor | None = None) -> Tensor:
    """The rank of each unit within its group by descending score, from 0; equal scores rank in their order.

    Args:
        scores: (n,).
        group: (n,) int64, ascending; None is one group.
    """
    order = scores.argsort(descending=True, stable=True)
    if group is None:
        return order.argsort()
    order = order[group[order].argsort(stable=True)]  # group by group, as `group` itself
    starts = torch.searchsorted(group, group)
    return order.argsort() - starts
