"""From gates to final masks, folded weights, and a physically smaller encoder."""

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

_SHIFT_LIMIT = 20.0  # beyond this, every dimension gate is open or closed with certainty


@dataclass(kw_only=True)
class FinalMasks:
    """Deterministic masks, and how they were determined."""

    masks: Masks
    """Kept units have their soft value, others 0. Masks of hard concrete gates are on the CPU."""
    spec: CompactSpec
    """The kept structure."""
    sparsity: float
    """Realised sparsity of `spec`."""
    rounded_sparsity: float
    """Realised sparsity of the rounding rule alone, without a shift."""
    reached: float
    """Realised value of the target's quantity, as the removed share of the dense model: of weights (`sparsity`), MACs
    or time."""
    fulfilled: float
    """As `reached`; with several targets, of the one that is furthest from its share, in the unit of the first."""
    shift: float = 0.0
    """Constant added to log_alpha of the dimension gates to meet the target; 0 if none was needed."""
    cnn_shift: float = 0.0
    """The same for gates of channels, if the CNN has a target of its own; else `shift`."""
    ffn_shift: float = 0.0
    """Added to `shift` for FFN dimensions, if whole heads or multiples are too coarse to meet the target."""
    matrices: dict[str, Tensor] = field(default_factory=dict)
    """0/1 masks of single weights, by parameter name. These weights keep their place and become 0 (`zero_weights`)."""

    @classmethod
    def exact(
        cls, masks: Masks, spec: CompactSpec, sparsity: float, *, matrices: dict[str, Tensor] | None = None
    ) -> "FinalMasks":
        """Masks that already are 0 or 1, so that nothing is rounded or shifted.

        Args:
            masks: masks of units.
            spec: the kept structure.
            sparsity: realised sparsity, including single weights.
            matrices: masks of single weights.
        """
        same = {"sparsity": sparsity, "rounded_sparsity": sparsity, "reached": sparsity, "fulfilled": sparsity}
        return cls(masks=masks, spec=spec, matrices=matrices or {}, **same)


@torch.no_grad()
def final_masks(
    gates: GateSet, encoder: SpeechEncoder, config: SparsityConfig, table: LatencyTable | None = None
) -> FinalMasks:
    """Final masks of trained hard concrete gates.

    Per layer and kind, the `n - round(n - sum P)` units with the largest log_alpha are kept (in a CNN layer at least
    one). A scalar mask is kept if and only if P > 0.5. Units that the masks would scale by less than
    `config.smallest_scale` are removed. If the result misses the target by more than `config.tolerance`, and
    `config.match_target` is set, one common constant is added to all dimension gates; bisection finds it, with the
    scalar masks and those of the positional convolution's groups fixed. A constant above 0 also raises the values of
    the shifted masks. If the CNN has a target of its own, its gates are first shifted to it by a separate constant.

    If units are kept in multiples, `in_multiples` decides how many. If the target is still missed, because multiples or
    whole heads are too coarse, another constant is added to the FFN dimensions.

    Args:
        gates: attached to `encoder`'s structure.
        encoder: the student; its weights are not used.
        config: target and tolerance.
        table: used instead of the file that the target names.
    """
    measure, cnn = measure_of(config, encoder.config, table), cnn_measure_of(config, encoder.config, table)

    def structure(shifts: _Shifts) -> tuple[Masks, CompactSpec]:
        masks = _deterministic(gates, shifts, smallest=config.smallest_scale)
        return masks, surviving_spec(encoder.spec, masks, shape=encoder.config)

    def matched(share_at: Callable[[float], float], goal: float) -> float:
        as_learned = share_at(0.0)
        if not config.match_target or abs(as_learned - goal) <= config.tolerance:
            return 0.0
        shift = _shift_to(goal, share_at)
        return 0.0 if share_at(shift) == as_learned else shift  # no gate of these can help, such as with `pos` alone

    cnn_shift = matched(lambda shift: cnn.of(structure(_Shifts(channels=shift))[1]), config.cnn_goal) if cnn else None

    def share(shift: float, ffn: float = 0.0) -> float:
        return measure.fulfilled(structure(_Shifts.of(shift, cnn_shift, ffn))[1])

    shift, ffn_shift = matched(share, config.goal), 0.0
    if config.match_target:
        shift, ffn_shift = _finely(config.goal, share, shift, tolerance=config.tolerance)
    masks, spec = structure(_Shifts.of(shift, cnn_shift, ffn_shift))
    bare = structure(_Shifts())[1] if shift or cnn_shift or ffn_shift else spec
    return FinalMasks(
        masks=masks,
        spec=spec,
        sparsity=realised_sparsity(encoder.config, spec),
        rounded_sparsity=realised_sparsity(encoder.config, bare),
        reached=measure.of(spec),
        fulfilled=measure.fulfilled(spec),
        shift=shift,
        cnn_shift=shift if cnn_shift is None else cnn_shift,
        ffn_shift=ffn_shift,
    )


@dataclass(frozen=True, kw_only=True)
class _Shifts:
    """Constants added to log_alpha before units are counted."""

    dims: float = 0.0
    channels: float = 0.0
    ffn: float = 0.0
    """Constant for FFN dimensions, added to `dims`."""

    @classmethod
    def of(cls, dims: float, channels: float | None, ffn: float) -> "_Shifts":
        """Shifts of all gates; None for `channels` shifts these by `dims`."""
        return cls(dims=dims, channels=dims if channels is None else channels, ffn=ffn)

    def of_slot(self, name: str) -> float:
        """Shift of a slot with this name; 0 for groups of the positional convolution, which are too large to tune."""
        return {"z_conv": self.channels, "z_int": self.dims + self.ffn, "z_pos": 0.0}.get(name, self.dims)


def _sides(goal: float, share_at: Callable[[float], float]) -> tuple[float, float]:
    """Two shifts around `goal`, as close as bisection gets: the share removed falls as the shift rises.

    If `goal` is out of reach, they are around the nearest share that is not.
    """
    low, high = -_SHIFT_LIMIT, _SHIFT_LIMIT
    goal = max(goal, share_at(high))  # or every gate would be opened wide
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share_at(middle) > goal else (low, middle)
    return low, high


def _shift_to(goal: float, share_at: Callable[[float], float]) -> float:
    """The shift whose share is nearest to `goal`."""
    return min(_sides(goal, share_at), key=lambda shift: abs(share_at(shift) - goal))


def _finely(
    goal: float, share: Callable[[float, float], float], shift: float, *, tolerance: float
) -> tuple[float, float]:
    """Shift of all dimension gates, and an additional one of the FFN dimensions if the first alone misses the target.

    Removing a whole head is a large step. FFN dimensions make up the difference, starting from either side of it.

    Args:
        goal: the share to remove.
        share: removed share for both shifts.
        shift: best shift of all dimension gates alone.
        tolerance: allowed difference from `goal`.
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
    """The 0/1 masks of training (Xu et al. 2025): the exported structure is the one that was counted.

    Args:
        gates: attached to `encoder`'s structure.
        encoder: the student; its weights determine the masks.
    """
    drawn = gates.draw(encoder, gates.config.final_temperature).hard_masks()  # not affected by the temperature
    masks = Masks.of({slot: z for slot, z in drawn.items() if slot[1].startswith("z_")})
    matrices = {f"layers.{i}.{name}": z for (i, name), z in drawn.items() if (i, name) not in masks}
    spec = surviving_spec(encoder.spec, masks)
    kept = prunable_weights(encoder.config, spec) - sum(int((z == 0).sum()) for z in matrices.values())
    reached = sparsity(kept, encoder.config, spec)
    return FinalMasks.exact(masks, spec, reached, matrices=matrices)


@torch.no_grad()
def zero_weights(encoder: SpeechEncoder, matrices: dict[str, Tensor]) -> None:
    """Set the weights that `FinalMasks.matrices` masks to zero, in place."""
    for name, z in matrices.items():
        encoder.get_parameter(name).mul_(z)


def _deterministic(gates: GateSet, shifts: _Shifts, *, smallest: float) -> Masks:
    masks = {}
    multiple = gates.config.unit_multiple
    # on the CPU, where counting and sorting slot by slot does not wait for a GPU
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
    """A copy of `encoder` with empty slots and the masks in its weights: the same function as `encoder` with the masks.

    `z_qk` is multiplied into the query, `z_vo` and `z_head` into the value (weights and biases), `z_int` into the
    columns of fc2, `z_mha` and `z_ffn` into weight *and* bias of the output projection and fc2, and `z_conv` into the
    weights that read the channel: the next convolution, or the projection. (If the CNN has a norm over channels, the
    function is only the same after channels with mask 0 are cut away.) `z_pos` is multiplied into weights and biases of
    the positional convolution.

    Args:
        encoder: dense or compact.
        masks: (n,) by slot.
        in_place: return `encoder` itself, which saves the memory of a copy.
    """
    folded = encoder if in_place else compact(encoder, encoder.spec)  # a copy, with empty slots
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
    """The smaller network: masks are folded into the weights, then everything with mask 0 is cut away.

    Args:
        encoder: dense or compact.
        masks: (n,) by slot.
        spec: the kept structure.
        in_place: fold into the weights of `encoder` itself, which saves the memory of a copy.
    """
    return compact(fold(encoder, masks, in_place=in_place), spec)
