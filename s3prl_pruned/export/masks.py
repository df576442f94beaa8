"""Gates -> deterministic masks -> folded weights -> a physically smaller encoder."""

from dataclasses import dataclass

import torch
from torch import Tensor

from s3prl_pruned.gates.attach import GateSet
from s3prl_pruned.gates.hard_concrete import HardConcrete, keep_probability, soft_value
from s3prl_pruned.models.compact import compact
from s3prl_pruned.models.components import input_side, output_side
from s3prl_pruned.models.encoder import LayerMasks, SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec, HeadSpec, LayerSpec, kept_ranks
from s3prl_pruned.sparsity.counts import realised_sparsity
from s3prl_pruned.sparsity.lagrangian import SparsityConfig

_SHIFT_LIMIT = 20.0  # beyond this every dimension gate is surely open or closed


@dataclass
class FinalMasks:
    """Deterministic masks, and how they came about."""

    masks: list[LayerMasks]
    """Per layer; survivors hold their soft value, the rest 0."""
    spec: CompactSpec
    """What the masks keep."""
    sparsity: float
    """Realised sparsity of `spec`."""
    rounded_sparsity: float
    """Realised sparsity of the bare rounding rule."""
    shift: float
    """Constant added to the dimension gates' log_alpha to meet the target; 0 when none was needed."""


@torch.no_grad()
def final_masks(gates: GateSet, encoder: SpeechEncoder, config: SparsityConfig) -> FinalMasks:
    """Deterministic masks of trained gates.

    Per layer and kind, `n - round(n - sum P)` masks with the largest log_alpha stay; a scalar mask lives if and only
    if P > 0.5. If that misses the target by more than `config.tolerance` and `config.match_target` is set, one common
    constant is added to the dimension gates, found by bisection with the scalar masks fixed.

    Args:
        gates: attached to `encoder`'s structure.
        encoder: the student (its weights are not used).
        config: target and tolerance.
    """

    def realise(shift: float) -> tuple[list[LayerMasks], CompactSpec, float]:
        masks = _deterministic(gates, shift)
        spec = surviving_spec(encoder.spec, masks)
        return masks, spec, realised_sparsity(encoder.config, spec)

    masks, spec, rounded = realise(0.0)
    shift, reached = 0.0, rounded
    if config.match_target and abs(rounded - config.target_sparsity) > config.tolerance:
        low, high = -_SHIFT_LIMIT, _SHIFT_LIMIT  # sparsity falls as the shift rises
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if realise(middle)[2] > config.target_sparsity else (low, middle)
        shift = min((low, high), key=lambda s: abs(realise(s)[2] - config.target_sparsity))
        masks, spec, reached = realise(shift)
    return FinalMasks(masks, spec, reached, rounded, shift)


def _deterministic(gates: GateSet, shift: float) -> list[LayerMasks]:
    masks = [LayerMasks() for _ in gates.layers]
    for layer, name, gate in gates.items():
        scalar = name in ("z_mha", "z_ffn")
        setattr(masks[layer], name, _scalar_mask(gate) if scalar else _dim_masks(gate, shift))
    return masks


def _scalar_mask(gate: HardConcrete) -> Tensor:
    return torch.where(gate.keep_probability() > 0.5, soft_value(gate.log_alpha), 0.0)


def _dim_masks(gate: HardConcrete, shift: float) -> Tensor:
    """Survivors keep the soft value of the *learned* log_alpha: the shift decides who stays, not how loud."""
    num = gate.log_alpha.numel()
    num_kept = num - round(num - float(keep_probability(gate.log_alpha + shift).sum()))
    kept = gate.log_alpha.argsort(descending=True, stable=True)[:num_kept]
    mask = torch.zeros_like(gate.log_alpha)
    mask[kept] = soft_value(gate.log_alpha[kept])
    return mask


def surviving_spec(spec: CompactSpec, masks: list[LayerMasks]) -> CompactSpec:
    """What of `spec` has a non-zero mask. Slots that are None keep everything.

    A head without value/output dimensions vanishes with its query/key dimensions; a head without query/key
    dimensions stays (it attends by position bias alone).
    """
    return CompactSpec(layers=tuple(_surviving_layer(layer, mask) for layer, mask in zip(spec.layers, masks, strict=True)))


def _surviving_layer(layer: LayerSpec, mask: LayerMasks) -> LayerSpec:
    def alive(z: Tensor | None) -> bool:
        return z is None or bool(z.any())

    def kept(indices: tuple[int, ...], z: Tensor | None) -> tuple[int, ...]:
        return indices if z is None else tuple(d for d, value in zip(indices, z.tolist(), strict=True) if value != 0)

    attention = layer.attention and alive(mask.z_mha)
    feed_forward = layer.feed_forward and alive(mask.z_ffn)
    heads, qk_start, vo_start = [], 0, 0
    for h, head in enumerate(layer.heads):
        qk_end, vo_end = qk_start + len(head.qk), vo_start + len(head.vo)
        qk = kept(head.qk, None if mask.z_qk is None else mask.z_qk[qk_start:qk_end])
        vo = kept(head.vo, None if mask.z_vo is None else mask.z_vo[vo_start:vo_end])
        if vo and attention and (mask.z_head is None or mask.z_head[h] != 0):
            heads.append(HeadSpec(index=head.index, qk=qk, vo=vo))
        qk_start, vo_start = qk_end, vo_end
    return LayerSpec(
        attention=attention,
        heads=tuple(heads),
        feed_forward=feed_forward,
        ffn=kept(layer.ffn, mask.z_int) if feed_forward else (),
        ranks=kept_ranks(layer.ranks, attention=attention, feed_forward=feed_forward),
    )


@torch.no_grad()
def fold(encoder: SpeechEncoder, masks: list[LayerMasks], *, in_place: bool = False) -> SpeechEncoder:
    """A copy of `encoder`, slots empty, whose weights carry the masks: the same function as `encoder` with them.

    With `in_place` it is `encoder` itself, which saves the memory of a copy.

    `z_qk` goes into the query, `z_vo` and `z_head` into the value (weights and biases), `z_int` into the columns of
    fc2, `z_mha` and `z_ffn` into weight *and* bias of the output projection and fc2.
    """
    folded = encoder if in_place else compact(encoder, encoder.spec)  # a copy, without what stands in the slots
    folded.set_masks(None)
    for layer, mask in zip(folded.layers, masks, strict=True):
        attention, feed_forward = layer.attention, layer.feed_forward
        if attention is not None:
            _scale_rows(attention.q_proj, mask.z_qk)
            _scale_rows(attention.v_proj, mask.z_vo)
            if mask.z_head is not None:
                sizes = torch.tensor(attention.vo_heads.sizes, dtype=torch.long, device=mask.z_head.device)
                _scale_rows(attention.v_proj, mask.z_head.repeat_interleave(sizes))
            _scale_rows(attention.out_proj, mask.z_mha)
        if feed_forward is not None:
            if mask.z_int is not None:
                input_side(feed_forward.fc2).weight.mul_(mask.z_int)
            _scale_rows(feed_forward.fc2, mask.z_ffn)
    return folded


def _scale_rows(linear: torch.nn.Module, z: Tensor | None) -> None:
    if z is not None:
        output_side(linear).weight.mul_(z[:, None])
        output_side(linear).bias.mul_(z)


def export_compact(
    encoder: SpeechEncoder, masks: list[LayerMasks], spec: CompactSpec, *, in_place: bool = False
) -> SpeechEncoder:
    """The smaller network: masks folded into the weights (of `encoder` itself with `in_place`), then everything that they
    zero cut away."""
    return compact(fold(encoder, masks, in_place=in_place), spec)
