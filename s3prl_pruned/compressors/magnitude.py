"""Unstructured weight pruning: global L1 magnitude over q, k, v, o, fc1 and fc2 of all layers (Lin et al. 2024).

torch's own `torch.nn.utils.prune` holds the masks: a pruned weight is `weight_orig * weight_mask`, whose gradient is
zero where the mask is. Biases are kept (the paper's code prunes them too, `weight_pruning/wp_utils.py`; our sparsity
does not count them).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.linear import LowRankLinear
from s3prl_pruned.models.masks import Slot, masks_of_layer
from s3prl_pruned.models.spec import ATTENTION_MAPS, FEED_FORWARD_MAPS
from s3prl_pruned.sparsity.counts import prunable_weights

_BY_CHANCE = 1e-4  # share of zeros up to which they do not count as pruned


def prunable_linears(encoder: SpeechEncoder) -> dict[str, nn.Linear]:
    """The linear maps whose weights are prunable, by name; both factors of a factorised map."""
    found: dict[str, nn.Linear] = {}
    for number, layer in enumerate(encoder.layers):
        for part, names in (("attention", ATTENTION_MAPS), ("feed_forward", FEED_FORWARD_MAPS)):
            for name in names:
                module = getattr(getattr(layer, part), name, None)  # None: the sublayer is removed
                path = f"layers.{number}.{part}.{name}"
                if isinstance(module, LowRankLinear):
                    found |= {f"{path}.down": module.down, f"{path}.up": module.up}
                elif module is not None:
                    found[path] = module
    return {
        path: module for path, module in found.items() if not isinstance(module, nn.Linear) or module.weight.numel()
    }


@torch.no_grad()
def prune_weights(encoder: SpeechEncoder, kept: int, masks: Mapping[Slot, Tensor] | None = None) -> None:
    """Prune the weights of smallest magnitude until `kept` are left; weights pruned before stay zero.

    Args:
        encoder: changed in place; its parameters stay the same objects.
        kept: number of weights to keep, of all `prunable_linears`.
        masks: `z_head` and `z_int` of pruned heads and rows, whose weights are pruned before all others.
    """
    modules = prunable_linears(encoder)
    for module in modules.values():
        if prune.is_pruned(module):
            prune.remove(module, "weight")  # zeros remain, and are pruned first again
    silent = _silent(encoder, masks or {})
    importance = {(module, "weight"): module.weight.abs() for module in modules.values()}
    for path, mask in silent.items():
        importance[modules[path], "weight"] = importance[modules[path], "weight"] * mask
    total = sum(module.weight.numel() for module in modules.values())
    prune.global_unstructured(
        list(importance), pruning_method=prune.L1Unstructured, importance_scores=importance, amount=max(0, total - kept)
    )


def _silent(encoder: SpeechEncoder, masks: Mapping[Slot, Tensor]) -> dict[str, Tensor]:
    """Masks of the weights of pruned heads and rows: 0/1 per row (out, 1) or column (1, in) of the linear maps."""
    found = {}
    for number, layer in enumerate(encoder.layers):
        rows: dict[str, Tensor] = {}
        columns: dict[str, Tensor] = {}
        mask = masks_of_layer(masks, number)
        if "z_head" in mask:
            assert layer.attention is not None
            qk, vo = (heads.spread(mask["z_head"]) for heads in (layer.attention.qk_heads, layer.attention.vo_heads))
            rows |= {"attention.q_proj": qk, "attention.k_proj": qk, "attention.v_proj": vo}
            columns["attention.out_proj"] = vo
        if "z_int" in mask:
            rows["feed_forward.fc1"], columns["feed_forward.fc2"] = mask["z_int"], mask["z_int"]
        for side, by_name, shape in (("up", rows, (-1, 1)), ("down", columns, (1, -1))):
            for name, z in by_name.items():
                factored = isinstance(layer.get_submodule(name), LowRankLinear)
                found[f"layers.{number}.{name}" + f".{side}" * factored] = z.view(shape)
    return {path: z for path, z in found.items() if z.numel()}


def weight_masks(encoder: SpeechEncoder) -> dict[str, Tensor]:
    """The masks of pruned linear maps (bool, the weights' shapes), by name; empty before the first pruning."""
    return {
        path: module.get_buffer("weight_mask").bool()
        for path, module in prunable_linears(encoder).items()
        if prune.is_pruned(module)
    }


def set_weight_masks(encoder: SpeechEncoder, masks: dict[str, Tensor]) -> None:
    """The reverse of `weight_masks`."""
    for path, mask in masks.items():
        prune.custom_from_mask(encoder.get_submodule(path), "weight", mask)


def plain_state(encoder: SpeechEncoder) -> dict[str, Tensor]:
    """The state dict with masks applied to the weights (zeros where pruned), under the weights' own names."""
    state = encoder.state_dict()
    for path in weight_masks(encoder):
        state[f"{path}.weight"] = state.pop(f"{path}.weight_orig") * state.pop(f"{path}.weight_mask")
    return state


def load_plain_state(encoder: SpeechEncoder, state: Mapping[str, Tensor]) -> None:
    """The reverse of `plain_state`; pruned weights stay so."""
    state = dict(state)
    for path in weight_masks(encoder):
        state[f"{path}.weight_orig"] = state.pop(f"{path}.weight")
        state[f"{path}.weight_mask"] = encoder.get_buffer(f"{path}.weight_mask")
    encoder.load_state_dict(state)
    apply_weight_masks(encoder)


def apply_weight_masks(encoder: SpeechEncoder) -> None:
    """Mask pruned weights anew where they were changed in place, as the next forward pass would do it."""
    for module in prunable_linears(encoder).values():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                hook(module, None)


def weights_left(encoder: SpeechEncoder) -> int:
    """Number of prunable weights in the encoder, without those that unstructured pruning has set to zero.

    Zeros are not subtracted if they are too few to come from pruning (the embedded teacher, which was stored in fp16,
    has two), nor in an int8 encoder, where rounding also makes zeros.
    """
    whole, modules = prunable_weights(encoder.config, encoder.spec), prunable_linears(encoder).values()
    if not all(isinstance(module, nn.Linear) for module in modules):
        return whole
    zeros = sum(module.weight.numel() - int(module.weight.count_nonzero()) for module in modules)
    return whole - zeros if zeros > _BY_CHANCE * whole else whole
