"""Gates -> deterministic masks -> folded weights -> a physically smaller encoder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from s3prl_pruned.export.inert import without_inert
from s3prl_pruned.export.multiples import in_multiples, without_bare_biases
from s3prl_pruned.gates.attach import GateSet
from s3prl_pruned.gates.hard_concrete import keep_probability, rounded_masks, soft_value
from s3prl_pruned.gates.multiples import WHOLE_HEADS
from s3prl_pruned.gates.self_pinching import SelfPinchingGates
from s3prl_pruned.models.compact import compact, surviving_spec
from s3prl_pruned.models.components import PositionalConvolution
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.linear import LowRankLinear, input_side, output_side
from s3prl_pruned.models.masks import Masks, Slot, masks_of_layer
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.counts import prunable_weights, realised_sparsity, sparsity
from s3prl_pruned.sparsity.lagrangian import SparsityConfig
from s3prl_pruned.sparsity.latency import LatencyTable
from s3prl_pruned.sparsity.targets import cnn_measure_of, measure_of

_SHIFT_LIMIT = 20.0  # beyond this every dimension gate is surely open or closed


@dataclass(kw_only=True)
class FinalMasks:
    """Deterministic masks, and how they came about."""

    masks: Masks
    """Survivors hold their soft value, the rest 0. Of hard concrete gates they are on the CPU."""
    spec: CompactSpec
    """What the masks keep."""
    sparsity: float
    """Realised sparsity of `spec`."""
    rounded_sparsity: float
    """Realised sparsity of the bare rounding rule."""
    reached: float
    """What the target is of, realised, as the share of the dense model that goes: `sparsity`, or that of its MACs or
    time."""
    shift: float = 0.0
    """Constant added to the dimension gates' log_alpha to meet the target; 0 when none was needed."""
    cnn_shift: float = 0.0
    """Likewise of the channels' gates, where the CNN has a target of its own; else `shift`."""
    ffn_shift: float = 0.0
    """Added to the FFN dimensions' beside `shift`, where whole heads or multiples are too coarse for the target."""
    matrices: dict[str, Tensor] = field(default_factory=dict)
    """0/1 masks of single weights, by the parameter's name; they stay where they are, as zeros (`zero_weights`)."""

    @classmethod
    def exact(
        cls, masks: Masks, spec: CompactSpec, sparsity: float, *, matrices: dict[str, Tensor] | None = None
    ) -> "FinalMasks":
        """Masks that are 0 and 1 already: nothing is rounded or shifted.

        Args:
            masks: of units.
            spec: what they keep.
            sparsity: realised, single weights included.
            matrices: masks of single weights.
        """
        same = {"sparsity": sparsity, "rounded_sparsity": sparsity, "reached": sparsity}
        return cls(masks=masks, spec=spec, matrices=matrices or {}, **same)


@torch.no_grad()
def final_masks(
    gates: GateSet, encoder: SpeechEncoder, config: SparsityConfig, table: LatencyTable | None = None
) -> FinalMasks:
    """Deterministic masks of trained hard concrete gates.

    Per layer and kind, `n - round(n - sum P)` masks with the largest log_alpha stay (of a layer of the CNN at least
    one); a scalar mask lives if and only if P > 0.5; and no unit stays that the masks would scale by less than
    `config.smallest_scale`. If that misses the target by more than `config.tolerance` and `config.match_target` is
    set, one common constant is added to the dimension gates, found by bisection with the scalar masks and those of
    the positional convolution's groups fixed. Where the CNN has a target of its own, its gates are shifted to that
    first, by a constant of their own.

    Where units stay in multiples, `in_multiples` says how many; where these or whole heads leave the target missed
    still, another constant is added to the FFN dimensions alone.

    Args:
        gates: attached to `encoder`'s structure.
        encoder: the student; its weights are not used.
        config: target and tolerance.
        table: in place of the file that the target names.
    """
    measure, cnn = measure_of(config, encoder.config, table), cnn_measure_of(config, encoder.config, table)

    def structure(shifts: _Shifts) -> tuple[Masks, CompactSpec]:
        masks = _deterministic(gates, shifts, smallest=config.smallest_scale)
        return masks, surviving_spec(encoder.spec, masks, shape=encoder.config)

    def matched(share_at: Callable[[float], float], goal: float) -> float:
        near = not config.match_target or abs(share_at(0.0) - goal) <= config.tolerance
        return 0.0 if near else _shift_to(goal, share_at)

    cnn_shift = matched(lambda shift: cnn.of(structure(_Shifts(channels=shift))[1]), config.cnn_goal) if cnn else None

    def share(shift: float, ffn: float = 0.0) -> float:
        return measure.of(structure(_Shifts.of(shift, cnn_shift, ffn))[1])

    shift, ffn_shift = matched(share, config.goal), 0.0
    if gates.config.dims_multiple is not None and config.match_target:
        shift, ffn_shift = _finely(config.goal, share, shift, tolerance=config.tolerance)
    masks, spec = structure(_Shifts.of(shift, cnn_shift, ffn_shift))
    bare = structure(_Shifts())[1] if shift or cnn_shift or ffn_shift else spec
    return FinalMasks(
        masks=masks,
        spec=spec,
        sparsity=realised_sparsity(encoder.config, spec),
        rounded_sparsity=realised_sparsity(encoder.config, bare),
        reached=measure.of(spec),
        shift=shift,
        cnn_shift=shift if cnn_shift is None else cnn_shift,
        ffn_shift=ffn_shift,
    )


@dataclass(frozen=True, kw_only=True)
class _Shifts:
    """What is added to the gates' log_alpha before units are counted."""

    dims: float = 0.0
    channels: float = 0.0
    ffn: float = 0.0
    """Of the FFN dimensions, beside `dims`."""

    @classmethod
    def of(cls, dims: float, channels: float | None, ffn: float) -> "_Shifts":
        """With the channels' own where they have a target of their own."""
        return cls(dims=dims, channels=dims if channels is None else channels, ffn=ffn)

    def of_slot(self, name: str) -> float:
        """Of a slot of this name; none of groups of the positional convolution, too large to meet a target by."""
        return {"z_conv": self.channels, "z_int": self.dims + self.ffn, "z_pos": 0.0}.get(name, self.dims)


def _sides(goal: float, share_at: Callable[[float], float]) -> tuple[float, float]:
    """Two shifts as near as may be, found by bisection: the less goes, the higher the shift. `goal` lies between."""
    low, high = -_SHIFT_LIMIT, _SHIFT_LIMIT
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share_at(middle) > goal else (low, middle)
    return low, high


def _shift_to(goal: float, share_at: Callable[[float], float]) -> float:
    """The shift whose share comes nearest to `goal`."""
    return min(_sides(goal, share_at), key=lambda shift: abs(share_at(shift) - goal))


def _finely(
    goal: float, share: Callable[[float, float], float], shift: float, *, tolerance: float
) -> tuple[float, float]:
    """The shift of all dimension gates and that of the FFN's beside it, where the first alone leaves the target missed.

    A head that goes is much at once: the FFN's dimensions give what is between, on either side of it.

    Args:
        goal: the share that is to go.
        share: what goes with both.
        shift: the first alone.
        tolerance: how far off `goal` a share may be.
    """

    def miss(both: tuple[float, float]) -> float:
        return abs(share(*both) - goal)

    found = [(shift, 0.0)]
    if miss(found[0]) > tolerance:
        sides = sorted(_sides(goal, lambda side: share(side, 0.0)), key=lambda side: miss((side, 0.0)))
        found += [(side, _shift_to(goal, partial(share, side))) for side in sides]
    return next((both for both in found if miss(both) <= tolerance), min(found, key=miss))


@torch.no_grad()
def pinched_masks(gates: SelfPinchingGates, encoder: SpeechEncoder) -> FinalMasks:
    """The 0/1 masks of training (Xu et al. 2025): what is exported is what was counted.

    Args:
        gates: attached to `encoder`'s structure.
        encoder: the student, whose weights decide.
    """
    drawn = gates.draw(encoder, gates.config.final_temperature).hard_masks()  # no mask depends on the temperature
    masks = Masks.of({slot: z for slot, z in drawn.items() if slot[1].startswith("z_")})
    matrices = {f"layers.{i}.{name}": z for (i, name), z in drawn.items() if (i, name) not in masks}
    spec = surviving_spec(encoder.spec, masks)
    kept = prunable_weights(encoder.config, spec) - sum(int((z == 0).sum()) for z in matrices.values())
    reached = sparsity(kept, encoder.config, spec)
    return FinalMasks.exact(masks, spec, reached, matrices=matrices)


@torch.no_grad()
def zero_weights(encoder: SpeechEncoder, matrices: dict[str, Tensor]) -> None:
    """Set to zero, in place, the weights that `FinalMasks.matrices` masks."""
    for name, z in matrices.items():
        encoder.get_parameter(name).mul_(z)


def _deterministic(gates: GateSet, shifts: _Shifts, *, smallest: float) -> Masks:
    masks = {}
    multiple = gates.config.unit_multiple
    # on the CPU, where counting and sorting slot by slot waits for no device
    for (layer, name), log_alpha in gates.table.split(gates.log_alpha.detach().cpu()).items():
        if name in ("z_mha", "z_ffn"):
            masks[layer, name] = torch.where(keep_probability(log_alpha) > 0.5, soft_value(log_alpha), 0.0)
        elif multiple is None or name in ("z_head", "z_pos"):
            masks[layer, name] = rounded_masks(log_alpha, shifts.of_slot(name), at_least=int(name == "z_conv"))
    if multiple is not None:
        return in_multiples(gates, Masks.of(masks), shifts.of_slot, smallest=smallest)
    computing = without_inert(Masks.of(masks), gates.spec, smallest)
    return without_bare_biases(computing) if gates.config.dims_multiple == WHOLE_HEADS else computing


@torch.no_grad()
def fold(encoder: SpeechEncoder, masks: Mapping[Slot, Tensor], *, in_place: bool = False) -> SpeechEncoder:
    """A copy of `encoder`, slots empty, whose weights carry the masks: the same function as `encoder` with them.

    `z_qk` goes into the query, `z_vo` and `z_head` into the value (weights and biases), `z_int` into the columns of
    fc2, `z_mha` and `z_ffn` into weight *and* bias of the output projection and fc2, `z_conv` into the weights of
    what reads the channel: the next convolution, or the projection. (A CNN whose norm runs over channels computes the
    same function only after those of mask 0 are cut away.) `z_pos` goes into the positional convolution's weights and
    biases.

    Args:
        encoder: dense or compact.
        masks: (n,) by slot.
        in_place: return `encoder` itself, which saves the memory of a copy.
    """
    folded = encoder if in_place else compact(encoder, encoder.spec)  # a copy, without what stands in the slots
    folded.set_masks(None)
    for i, layer in enumerate(folded.layers):
        of_layer = masks_of_layer(masks, i)
        attention, feed_forward = layer.attention, layer.feed_forward
        if attention is not None:
            _scale_rows(attention.q_proj, of_layer.get("z_qk"))
            _scale_rows(attention.v_proj, of_layer.get("z_vo"))
            if "z_head" in of_layer:
                _scale_rows(attention.v_proj, attention.vo_heads.spread(of_layer["z_head"]))
            _scale_rows(attention.out_proj, of_layer.get("z_mha"))
        if feed_forward is not None:
            if "z_int" in of_layer:
                input_side(feed_forward.fc2).weight.mul_(of_layer["z_int"])
            _scale_rows(feed_forward.fc2, of_layer.get("z_ffn"))
    readers = [
        *(layer.conv for layer in list(folded.feature_extractor.layers)[1:]),
        folded.feature_projection.projection,
    ]
    for (i, name), z in masks.items():
        if name == "z_conv":
            reader = readers[i]
            assert reader is not None  # without a projection the last layer has no masks
            weight = reader.get_parameter("weight")  # (out, channels, kernel) or (D, channels)
            weight.mul_(z.view(1, -1, *[1] * (weight.dim() - 2)))
    positions = folded.positional_convolution
    if (0, "z_pos") in masks and isinstance(positions, PositionalConvolution) and positions.conv is not None:
        assert positions.conv.bias is not None
        z = masks[0, "z_pos"].repeat_interleave(positions.width)
        positions.conv.hold(positions.conv.weight * z[:, None, None], positions.conv.bias * z)
    return folded


def _scale_rows(linear: nn.Linear | LowRankLinear, z: Tensor | None) -> None:
    if z is not None:
        output_side(linear).weight.mul_(z[:, None])
        output_side(linear).bias.mul_(z)


def export_compact(
    encoder: SpeechEncoder, masks: Mapping[Slot, Tensor], spec: CompactSpec, *, in_place: bool = False
) -> SpeechEncoder:
    """The smaller network: masks folded into the weights, then everything that they zero cut away.

    Args:
        encoder: dense or compact.
        masks: (n,) by slot.
        spec: what they keep.
        in_place: fold them into the weights of `encoder` itself, which saves the memory of a copy.
    """
    return compact(fold(encoder, masks, in_place=in_place), spec)
