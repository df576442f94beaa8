"""Gates -> deterministic masks -> folded weights -> a physically smaller encoder."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from s3prl_pruned.gates.attach import GateSet, arrange
from s3prl_pruned.gates.hard_concrete import HardConcrete, keep_probability, soft_value
from s3prl_pruned.gates.self_pinching import SelfPinchingGates
from s3prl_pruned.models.compact import compact, surviving_spec
from s3prl_pruned.models.encoder import LayerMasks, SpeechEncoder
from s3prl_pruned.models.linear import input_side, output_side
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.counts import prunable_weights, realised_sparsity, sparsity
from s3prl_pruned.sparsity.lagrangian import SparsityConfig
from s3prl_pruned.sparsity.latency import LatencyTable
from s3prl_pruned.sparsity.targets import cnn_measure_of, measure_of

Masks = tuple[list[LayerMasks], dict[int, Tensor]]  # of the layers, and of the CNN's layers (`set_masks`)
_SHIFT_LIMIT = 20.0  # beyond this every dimension gate is surely open or closed


@dataclass
class FinalMasks:
    """Deterministic masks, and how they came about."""

    masks: list[LayerMasks]
    """Per layer; survivors hold their soft value, the rest 0."""
    conv_masks: dict[int, Tensor]
    """Likewise of the channels, by layer of the CNN; empty where it has no gates."""
    spec: CompactSpec
    """What the masks keep."""
    sparsity: float
    """Realised sparsity of `spec`."""
    rounded_sparsity: float
    """Realised sparsity of the bare rounding rule."""
    shift: float
    """Constant added to the dimension gates' log_alpha to meet the target; 0 when none was needed."""
    cnn_shift: float
    """Likewise of the channels' gates, where the CNN has a target of its own; else `shift`."""
    reached: float
    """What the target is of, realised, as the share of the dense model that goes: `sparsity`, or that of its MACs or time."""
    matrices: dict[str, Tensor] = field(default_factory=dict)
    """0/1 masks of single weights, by the parameter's name; they stay where they are, as zeros (`zero_weights`)."""


@torch.no_grad()
def final_masks(
    gates: GateSet | SelfPinchingGates, encoder: SpeechEncoder, config: SparsityConfig, table: LatencyTable | None = None
) -> FinalMasks:
    """Deterministic masks of trained gates.

    Per layer and kind, `n - round(n - sum P)` masks with the largest log_alpha stay (of a layer of the CNN at least
    one); a scalar mask lives if and only if P > 0.5. If that misses the target by more than `config.tolerance` and
    `config.match_target` is set, one common constant is added to the dimension gates, found by bisection with the scalar
    masks fixed. Where the CNN has a target of its own, its gates are shifted to that first, by a constant of their own.

    Args:
        gates: attached to `encoder`'s structure.
        encoder: the student (its weights are used by self-pinching gates alone).
        config: target and tolerance; self-pinching gates count what they keep in training too, and are left alone.
        table: in place of the file that `config.latency_table` names.
    """
    if isinstance(gates, SelfPinchingGates):
        return _pinched(gates, encoder)
    measure, cnn = (of(config, encoder.config, table) for of in (measure_of, cnn_measure_of))

    def structure(shift: float, cnn_shift: float) -> tuple[Masks, CompactSpec]:
        masks = _deterministic(gates, shift, cnn_shift)
        return masks, surviving_spec(encoder.spec, *masks, shape=encoder.config)

    def matched(share_at: Callable[[float], float], goal: float) -> float:
        near = not config.match_target or abs(share_at(0.0) - goal) <= config.tolerance
        return 0.0 if near else _shift_to(goal, share_at)

    cnn_shift = matched(lambda shift: cnn.of(structure(0.0, shift)[1]), config.target_cnn) if cnn else 0.0

    def whole(shift: float) -> tuple[Masks, CompactSpec]:
        return structure(shift, cnn_shift if cnn else shift)

    shift = matched(lambda shift: measure.of(whole(shift)[1]), config.goal)
    masks, spec = whole(shift)
    rounded = realised_sparsity(encoder.config, structure(0.0, 0.0)[1] if shift or cnn_shift else spec)
    realised = realised_sparsity(encoder.config, spec)
    return FinalMasks(*masks, spec, realised, rounded, shift, cnn_shift if cnn else shift, measure.of(spec))


def _shift_to(goal: float, share_at: Callable[[float], float]) -> float:
    """The shift whose share comes nearest to `goal`, by bisection: the less goes, the higher the shift."""
    low, high = -_SHIFT_LIMIT, _SHIFT_LIMIT
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share_at(middle) > goal else (low, middle)
    return min((low, high), key=lambda shift: abs(share_at(shift) - goal))


def _pinched(gates: SelfPinchingGates, encoder: SpeechEncoder) -> FinalMasks:
    """The 0/1 masks of training (Xu et al. 2025): what is exported is what was counted."""
    masks = gates.draw(encoder, gates.config.final_temperature).hard_masks()  # no mask depends on the temperature
    layers, conv_masks = arrange(masks, gates.spec)
    spec = surviving_spec(encoder.spec, layers)
    matrices = {f"layers.{layer}.{name}": z for (layer, name), z in masks.items() if name.endswith(".weight")}
    kept = prunable_weights(encoder.config, spec) - sum(int((z == 0).sum()) for z in matrices.values())
    reached = sparsity(kept, encoder.config, with_cnn=spec.channels is not None)
    return FinalMasks(layers, conv_masks, spec, reached, reached, 0.0, 0.0, reached, matrices)


@torch.no_grad()
def zero_weights(encoder: SpeechEncoder, matrices: dict[str, Tensor]) -> None:
    """Set to zero, in place, the weights that `FinalMasks.matrices` masks."""
    for name, z in matrices.items():
        encoder.get_parameter(name).mul_(z)


def _deterministic(gates: GateSet, shift: float, cnn_shift: float) -> Masks:
    masks = {}
    for layer, name, gate in gates.items():
        if name in ("z_mha", "z_ffn"):
            masks[layer, name] = _scalar_mask(gate)
        else:
            conv = name == "z_conv"
            masks[layer, name] = _dim_masks(gate, cnn_shift if conv else shift, at_least=int(conv))
    return arrange(masks, gates.spec)


def _scalar_mask(gate: HardConcrete) -> Tensor:
    return torch.where(gate.keep_probability() > 0.5, soft_value(gate.log_alpha), 0.0)


def _dim_masks(gate: HardConcrete, shift: float, *, at_least: int) -> Tensor:
    """Survivors keep the soft value of the *learned* log_alpha: the shift decides who stays, not how loud."""
    num = gate.log_alpha.numel()
    num_kept = max(at_least, num - round(num - float(keep_probability(gate.log_alpha + shift).sum())))
    kept = gate.log_alpha.argsort(descending=True, stable=True)[:num_kept]
    mask = torch.zeros_like(gate.log_alpha)
    mask[kept] = soft_value(gate.log_alpha[kept])
    return mask


@torch.no_grad()
def fold(
    encoder: SpeechEncoder, masks: list[LayerMasks], conv_masks: dict[int, Tensor] | None = None, *, in_place: bool = False
) -> SpeechEncoder:
    """A copy of `encoder`, slots empty, whose weights carry the masks: the same function as `encoder` with them.

    With `in_place` it is `encoder` itself, which saves the memory of a copy.

    `z_qk` goes into the query, `z_vo` and `z_head` into the value (weights and biases), `z_int` into the columns of
    fc2, `z_mha` and `z_ffn` into weight *and* bias of the output projection and fc2, `z_conv` into the weights of whatever
    reads the channel: the next convolution, or the projection. (A CNN whose norm runs over channels computes the same
    function only after those of mask 0 are cut away.)
    """
    folded = encoder if in_place else compact(encoder, encoder.spec)  # a copy, without what stands in the slots
    folded.set_masks(None)
    for layer, mask in zip(folded.layers, masks, strict=True):
        attention, feed_forward = layer.attention, layer.feed_forward
        if attention is not None:
            _scale_rows(attention.q_proj, mask.z_qk)
            _scale_rows(attention.v_proj, mask.z_vo)
            if mask.z_head is not None:
                _scale_rows(attention.v_proj, attention.vo_heads.spread(mask.z_head))
            _scale_rows(attention.out_proj, mask.z_mha)
        if feed_forward is not None:
            if mask.z_int is not None:
                input_side(feed_forward.fc2).weight.mul_(mask.z_int)
            _scale_rows(feed_forward.fc2, mask.z_ffn)
    readers = [*(layer.conv for layer in folded.feature_extractor.layers[1:]), folded.feature_projection.projection]
    for i, z in (conv_masks or {}).items():
        weight = readers[i].weight  # (out, channels, kernel) or (D, channels)
        weight.mul_(z.view(1, -1, *[1] * (weight.dim() - 2)))
    return folded


def _scale_rows(linear: torch.nn.Module, z: Tensor | None) -> None:
    if z is not None:
        output_side(linear).weight.mul_(z[:, None])
        output_side(linear).bias.mul_(z)


def export_compact(
    encoder: SpeechEncoder,
    masks: list[LayerMasks],
    spec: CompactSpec,
    conv_masks: dict[int, Tensor] | None = None,
    *,
    in_place: bool = False,
) -> SpeechEncoder:
    """The smaller network: masks folded into the weights (of `encoder` itself with `in_place`), then everything that they
    zero cut away."""
    return compact(fold(encoder, masks, conv_masks, in_place=in_place), spec)
