"""Final masks for `GateConfig.dims_multiple`: kept units are in multiples of a number, or are whole heads."""

from collections.abc import Callable

import torch
from torch import Tensor

from s3prl_pruned.export.inert import unit_scales, without_inert
from s3prl_pruned.gates.attach import GateSet
from s3prl_pruned.gates.hard_concrete import keep_probability, shifted_value
from s3prl_pruned.gates.multiples import GROUPED_KINDS, group_sizes, ranks, rounded_to
from s3prl_pruned.models.masks import Masks


def in_multiples(gates: GateSet, coarse: Masks, shift_of: Callable[[str], float], *, smallest: float) -> Masks:
    """Final masks of gates with a number as `dims_multiple`.

    In each group (`gates/multiples.py`), the expected number of kept units, sum P(z > 0), is rounded to the nearest
    multiple, and the units with the largest log_alpha are kept, with their soft value. A unit that the masks would
    scale by less than `smallest` may only fill up a multiple that other units have begun. It then gets the mean of
    their values, so that it contributes as much as they do. A group without any other unit is removed.

    Args:
        gates: gates of the encoder.
        coarse: final masks of whole sublayers and heads.
        shift_of: constant added to log_alpha of a slot with this name, for counts and values (`shifted_value`).
        smallest: see `SparsityConfig.smallest_scale`.
    """
    multiple = gates.config.unit_multiple
    assert multiple is not None
    masks = dict(without_inert(coarse, gates.spec, smallest))
    log_alphas = gates.table.split(gates.log_alpha.detach().cpu())
    fine = {slot: log_alpha for slot, log_alpha in log_alphas.items() if slot not in masks}
    soft = {slot: shifted_value(log_alpha, shift_of(slot[1])) for slot, log_alpha in fine.items()}
    scales = unit_scales({**masks, **soft}, gates.spec)
    sizes = {kind: group_sizes(gates.spec, gates.shape, kind) for kind in GROUPED_KINDS if kind in gates.config.kinds}
    for (i, name), log_alpha in fine.items():
        masks[i, name] = _group_masks(
            log_alpha,
            soft[i, name],
            scales[i, name] >= smallest,
            sizes[name[2:]][i],
            multiple=multiple,
            shift=shift_of(name),
            at_least=multiple if name == "z_conv" else 0,
        )
    return Masks.of({slot: masks[slot] for slot in log_alphas})


def without_bare_biases(masks: Masks) -> Masks:
    """Masks in which a sublayer without heads or dimensions is removed completely, with its output bias.

    Formats that hold whole heads cannot express a sublayer with only a bias.
    """
    kept = dict(masks)
    for (i, name), z in masks.items():
        sublayer = {"z_head": "z_mha", "z_int": "z_ffn"}.get(name)
        if sublayer is not None and (i, sublayer) in masks and not z.any():
            kept[i, sublayer] = torch.zeros_like(masks[i, sublayer])
    return Masks.of(kept)


def _group_masks(
    log_alpha: Tensor, soft: Tensor, lives: Tensor, sizes: list[int], *, multiple: int, shift: float, at_least: int
) -> Tensor:
    """Masks (n,) of a slot.

    Args:
        log_alpha: (n,).
        soft: (n,), values of kept units.
        lives: (n,) bool, whether a unit with its soft value contributes enough to be kept.
        sizes: sizes of the slot's groups.
        multiple: the kept number of each group is a multiple of this.
        shift: added to `log_alpha` before counting.
        at_least: smallest kept number of a group.
    """
    whole = torch.tensor(sizes)
    group = torch.repeat_interleave(torch.arange(len(sizes)), whole)

    def per_group(x: Tensor) -> Tensor:
        return torch.zeros(len(sizes)).index_add(0, group, x.float())

    most = torch.minimum((per_group(lives) / multiple).ceil() * multiple, whole // multiple * multiple)
    expected = per_group(keep_probability(log_alpha + shift))
    counts = torch.minimum(rounded_to(expected, multiple), most).clamp(min=at_least)
    kept = ranks(log_alpha, group) < counts[group]
    loud = kept & lives
    mean = per_group(soft * loud) / per_group(loud)
    largest = torch.zeros(len(sizes)).scatter_reduce(0, group, soft, "amax")  # if all units of a CNN layer are inert
    value = torch.where(per_group(loud) > 0, mean, largest)
    return torch.where(kept, torch.where(lives, soft, value[group]), 0.0)
