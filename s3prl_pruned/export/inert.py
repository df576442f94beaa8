"""Kept units that contribute almost nothing (inert units): their share, and masks without them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from s3prl_pruned.models.compact import surviving_spec
from s3prl_pruned.models.masks import Masks, Slot
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.counts import prunable_weights
from s3prl_pruned.sparsity.quantities import INERT


def unit_scales(masks: Mapping[Slot, Tensor], spec: CompactSpec) -> dict[Slot, Tensor]:
    """Factor that the masks apply to each unit, (n,) by slot: product of the masks of the unit, its head and sublayer.

    For query/key dimensions it is their own mask alone, since they scale the attention's logits, not its output.

    Args:
        masks: (n,) by slot.
        spec: structure of the encoder.
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
    """Set units to 0 that are scaled by less than `smallest`.

    Units are dimensions, heads, channels and groups of the positional convolution, but not whole sublayers.

    Args:
        masks: (n,) by slot.
        spec: structure of the encoder.
        smallest: smallest factor that is kept; 0 changes nothing.
    """
    kept = dict(masks)
    for (i, name), scale in unit_scales(masks, spec).items():
        if name not in ("z_mha", "z_ffn"):
            low = scale < smallest
            if name == "z_conv":  # a CNN layer needs at least one channel
                low &= scale < scale.max()
            kept[i, name] = masks[i, name].masked_fill(low, 0.0)
    return Masks.of(kept)


def inert_share(masks: Masks, spec: CompactSpec, shape: EncoderConfig) -> float:
    """Share of the kept prunable weights that belong to inert units.

    Args:
        masks: (n,) by slot.
        spec: structure of the encoder.
        shape: dense shape of the encoder.
    """
    kept, computing = (
        prunable_weights(shape, surviving_spec(spec, of, shape=shape)) for of in (masks, without_inert(masks, spec))
    )
    return 1 - computing / kept if kept else 0.0
