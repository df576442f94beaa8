"""Units that stay in an export and hardly compute anything: how many, and masks without them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from s3prl_pruned.models.compact import surviving_spec
from s3prl_pruned.models.masks import Masks, Slot
from s3prl_pruned.models.spec import CompactSpec, EncoderConfig
from s3prl_pruned.sparsity.counts import prunable_weights
from s3prl_pruned.sparsity.quantities import INERT


def unit_scales(masks: Mapping[Slot, Tensor], spec: CompactSpec) -> dict[Slot, Tensor]:
    """By how much the masks scale each unit, (n,) by slot: the product of its own mask, its head's and its sublayer's.

    Query/key dimensions have their own alone: they scale the attention's logits, whatever its output is scaled by.

    Args:
        masks: (n,) by slot.
        spec: of the encoder that they are for.
    """
    scales = {}
    for (i, name), z in masks.items():
        scale = z
        if name == "z_vo" and (i, "z_head") in masks:
            sizes = torch.tensor([len(head.vo) for head in spec.layers[i].heads], device=z.device)
            scale = scale * masks[i, "z_head"].repeat_interleave(sizes, output_size=z.numel())
        sublayer = {"z_vo": "z_mha", "z_head": "z_mha", "z_int": "z_ffn"}.get(name)
        scales[i, name] = scale * masks.get((i, sublayer), 1.0) if sublayer else scale
    return scales


def without_inert(masks: Masks, spec: CompactSpec, smallest: float = INERT) -> Masks:
    """Masks in which units that are scaled by less than `smallest` are 0: dimensions, heads, channels; not sublayers.

    Args:
        masks: (n,) by slot.
        spec: of the encoder that they are for.
        smallest: 0 leaves all as they are.
    """
    kept = dict(masks)
    for (i, name), scale in unit_scales(masks, spec).items():
        if name not in ("z_mha", "z_ffn"):
            low = scale < smallest
            if name == "z_conv":  # a layer of the CNN without channels is none
                low &= scale < scale.max()
            kept[i, name] = masks[i, name].masked_fill(low, 0.0)
    return Masks.of(kept)


def inert_share(masks: Masks, spec: CompactSpec, shape: EncoderConfig) -> float:
    """The share of the prunable weights that stay which belong to inert units.

    Args:
        masks: (n,) by slot.
        spec: of the encoder that they are for.
        shape: its dense shape.
    """
    kept, computing = (
        prunable_weights(shape, surviving_spec(spec, of, shape=shape)) for of in (masks, without_inert(masks, spec))
    )
    return 1 - computing / kept if kept else 0.0
