"""The masks of an encoder: one flat vector, and a table of the slots that its parts fill."""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec, check_position_groups

Slot: TypeAlias = tuple[int, str]
"""A layer, counted from 0, and the name of a slot in it (Wang et al. 2023, eq. 3). A Transformer layer with H heads, K
query/key, V value/output and F intermediate dimensions has `z_mha` (1,), `z_qk` (K,), `z_vo` (V,), `z_head` (H,),
`z_ffn` (1,), `z_int` (F,). A layer of the CNN with C channels has `z_conv` (C,). The positional convolution with G
groups has `z_pos` (G,), and its layer is 0.

Masks of single weights fill no slot, since slots mask units: they are multiplied into the matrices themselves
(`gates.self_pinching`). There the name is a kind (`attention_weights`) or a matrix of the layer
(`attention.q_proj.weight`), and none begins with `z_`."""

LAYER_KINDS = ("mha", "qk", "vo", "head", "ffn", "int")
KINDS = (*LAYER_KINDS, "conv", "pos")
"""Kinds of masks: a slot's name without `z_`."""
BESIDE_LAYERS = ("z_conv", "z_pos")
"""Slots outside Transformer layers."""


class SlotTable:
    """Which slots a flat vector fills, in its order.

    Args:
        sizes: number of masks in each slot.
    """

    def __init__(self, sizes: Mapping[Slot, int]):
        self.sizes = dict(sizes)
        self.total = sum(self.sizes.values())

    @classmethod
    def of(cls, spec: CompactSpec, kinds: tuple[str, ...], shape: EncoderConfig | None = None) -> "SlotTable":
        """The slots of some kinds that an encoder has.

        Args:
            spec: the encoder's structure.
            kinds: some of `KINDS`.
            shape: the encoder's dense shape; only the kinds `conv` and `pos` need it.

        Raises:
            UserError: the kind `pos`, of an encoder whose positional convolution it is not for.
        """
        sizes = {
            (i, f"z_{kind}"): size
            for i, layer in enumerate(spec.layers)
            for kind, size in layer.mask_sizes.items()
            if kind in kinds and size
        }
        if "conv" in kinds:
            assert shape is not None
            sizes |= {(i, "z_conv"): size for i, size in enumerate(spec.conv_mask_sizes(shape)) if size}
        if "pos" in kinds:
            assert shape is not None
            check_position_groups(shape)
            if groups := len(spec.groups_of(shape)):
                sizes[0, "z_pos"] = groups
        return cls(sizes)

    def slices(self) -> dict[Slot, slice]:
        """The position of each slot's part in the flat vector."""
        start, slices = 0, {}
        for slot, size in self.sizes.items():
            slices[slot] = slice(start, start + size)
            start += size
        return slices

    def split(self, flat: Tensor) -> dict[Slot, Tensor]:
        """Views of (N,) by slot, each (n,). For autograd they are one operation, however many there are."""
        return dict(zip(self.sizes, flat.split(list(self.sizes.values())), strict=True)) if self.sizes else {}


class Masks(Mapping[Slot, Tensor]):
    """Masks by slot: views (n,) of one vector. An empty slot has no entry.

    Args:
        table: which slots.
        flat: (N,), all masks.
    """

    def __init__(self, table: SlotTable, flat: Tensor):
        self.table, self.flat = table, flat
        self._parts = table.split(flat)

    @classmethod
    def of(cls, parts: Mapping[Slot, Tensor]) -> "Masks":
        """Join the parts (n,) into one vector, with a gradient to each; no parts for an encoder without masks."""
        table = SlotTable({slot: part.numel() for slot, part in parts.items()})
        return cls(table, torch.cat(list(parts.values())) if parts else torch.zeros(0))

    def __getitem__(self, slot: Slot) -> Tensor:
        return self._parts[slot]

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def to(self, where: torch.device | torch.dtype | str) -> "Masks":
        """On another device, or in another dtype."""
        return Masks(self.table, self.flat.to(where))


def masks_of_layer(masks: Mapping[Slot, Tensor], layer: int) -> dict[str, Tensor]:
    """The masks of one Transformer layer, by slot name."""
    return {name: z for (i, name), z in masks.items() if i == layer and name not in BESIDE_LAYERS}
