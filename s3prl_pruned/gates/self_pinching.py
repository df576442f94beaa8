"""Self-pinching gates (Xu et al. 2025): a learnable threshold per layer and unit type, and scores from units' weights.

    score = (s - min s) / (max s - min s + 1e-8) + 1e-5        s: squared norm of a unit's weights, per layer and type
    m = sigmoid((score - t^2) / (10 tau))                      single weights: / tau
    z = round(m) forward, m backward                           to t and, through the score, to the weights

Everything here computes in fp32, under autocast too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from s3prl_pruned import distributed
from s3prl_pruned.config import UserError
from s3prl_pruned.gates.attach import MaskDraw, averages
from s3prl_pruned.gates.multiples import ranks, refuse_multiple, rounded_to
from s3prl_pruned.models.encoder import EncoderLayer, SpeechEncoder
from s3prl_pruned.models.masks import Masks, Slot
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec, LayerSpec, Ranks

STRUCTURED = ("head", "int")
UNSTRUCTURED = ("attention_weights", "ffn_weights")
LOWEST_SCORE = 1e-5
"""Score of the unit with the smallest norm; it keeps dL/dt from vanishing at the initial t."""
_RANGE_FLOOR = 1e-8
_STRUCTURED_SCALE = 10.0

LOWEST_THRESHOLD = 0.0031622776
"""Initial threshold: the largest fp32 number whose square is not above `LOWEST_SCORE`. It prunes nothing yet."""
HIGHEST_THRESHOLD = 1.00001
"""Its square is above every score: it prunes everything."""

_MATRICES = {
    "attention_weights": tuple(f"attention.{name}.weight" for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
    "ffn_weights": ("feed_forward.fc1.weight", "feed_forward.fc2.weight"),
}
_SUBLAYERS = {"attention_weights": "z_mha", "ffn_weights": "z_ffn"}
"""The slot of the whole sublayer that the matrices belong to."""


@dataclass(kw_only=True)
class SelfPinchingConfig:
    """Which units are pinched, and how sharply (Xu et al. 2025)."""

    kinds: tuple[str, ...] = STRUCTURED
    """Unit types, each with one threshold per layer: `head` (whole heads) and `int` (FFN dimensions); or single
    weights, `attention_weights` (the four matrices of a layer under one threshold) and `ffn_weights` (its two)."""

    initial_temperature: float = 0.5
    """tau at the first step; it decays by half a cosine."""

    final_temperature: float = 0.01
    """tau at the last step."""

    dims_multiple: Literal[2, 4, 8, 16, 32] | None = None
    """In every step, each FFN keeps a multiple of this number of dimensions, for GPUs: the multiple nearest to the
    number above the threshold, with the largest scores. Heads are always whole. null: any number."""

    def validate(self) -> None:
        """Raise UserError for kinds that cannot be combined, and for temperatures that rise."""
        allowed = UNSTRUCTURED if set(self.kinds) & set(UNSTRUCTURED) else STRUCTURED
        if not self.kinds or len(set(self.kinds)) < len(self.kinds) or not set(self.kinds) <= set(allowed):
            raise UserError(
                f"`kinds` must be distinct, out of {list(STRUCTURED)} or out of {list(UNSTRUCTURED)} (not of both), "
                f"but is {list(self.kinds)}."
            )
        if self.dims_multiple is not None and "int" not in self.kinds:
            raise UserError(
                f"`dims_multiple` applies to FFN dimensions (`int`), but `kinds` is {list(self.kinds)}. Leave it out."
            )
        if not 0 < self.final_temperature <= self.initial_temperature:
            raise UserError(
                "`final_temperature` must be above 0 and at most `initial_temperature`, but they are "
                f"{self.final_temperature} and {self.initial_temperature}."
            )

    def check_multiple(self, spec: CompactSpec, shape: EncoderConfig) -> None:
        """Raise UserError if an encoder cannot be pruned to `dims_multiple`.

        Args:
            spec: the encoder's structure.
            shape: its dense shape.
        """
        refuse_multiple(self.dims_multiple, self.kinds, spec, shape)

    def closed(self, spec: CompactSpec, shape: EncoderConfig) -> "PinchedUnits":
        """All units of the kinds removed: the most that the gates can prune.

        Args:
            spec: the encoder's structure.
            shape: its dense shape; not needed here.
        """
        sizes = {(i, kind): _num_masks(layer, kind) for i, layer in enumerate(spec.layers) for kind in self.kinds}
        gone = {(i, slot_name(kind)): torch.zeros(n, dtype=torch.float64) for (i, kind), n in sizes.items() if n}
        return PinchedUnits(spec, gone)

    def temperature_at(self, step: int, total_steps: int) -> float:
        """Tau of optimiser step `step` (1-based): half a cosine from the first step to the last."""
        progress = (step - 1) / max(1, total_steps - 1)
        span = self.initial_temperature - self.final_temperature
        return self.final_temperature + span * (1 + math.cos(math.pi * progress)) / 2


def unit_scores(squared_norms: Tensor) -> Tensor:
    """Min-max normalised scores of the units that share a threshold: (N,) to (N,) fp32 in [1e-5, 1 + 1e-5].

    A gradient passes through the minimum and the maximum too.
    """
    s = squared_norms.float()
    low, high = s.min(), s.max()
    return (s - low) / (high - low + _RANGE_FLOOR) + LOWEST_SCORE


def pinch(
    scores: Tensor, threshold: Tensor, temperature: float, *, structured: bool, multiple: int | None = None
) -> Tensor:
    """Masks of units, 0 or 1, (N,) fp32; the gradient is that of m, not of the rounding.

    `round(m)` is 1 where m is above 0.5, that is where the score is above t^2. Scores are compared with t^2 itself:
    near it, fp32's sigmoid is exactly 0.5, in a range that depends on the temperature. A tie is kept.

    Args:
        scores: (N,), from `unit_scores`.
        threshold: t, a scalar.
        temperature: tau.
        structured: units (argument divided by 10 tau) or single weights (by tau).
        multiple: keep the nearest multiple of this many units, those with the largest scores. None: any number.
    """
    scale = temperature * (_STRUCTURED_SCALE if structured else 1.0)
    t_squared = threshold.float().square()
    m = torch.sigmoid((scores - t_squared) / scale)
    kept = scores >= t_squared
    if multiple is not None:
        count = rounded_to(kept.sum(), multiple).clamp(max=len(scores) // multiple * multiple)
        kept = ranks(scores.detach()) < count
    return kept.float() + (m - m.detach())


class SelfPinchingGates(nn.Module):
    """One threshold per layer and unit type, for an encoder with structure `spec`.

    Its methods are `GateSet`'s, but masks depend on the encoder's weights and a temperature, not on noise.
    """

    layers: Sequence[nn.ParameterDict]  # an nn.ModuleList

    def __init__(self, spec: CompactSpec, config: SelfPinchingConfig):
        super().__init__()
        if config.kinds and any(layer.ranks != Ranks() for layer in spec.layers):
            raise UserError(
                "self-pinching gates score units by the rows and columns of their matrices, but this model holds some "
                "as two low-rank factors. Prune first, then factorise."
            )
        self.spec = spec
        self.config = config
        layers = [
            nn.ParameterDict({kind: torch.tensor(LOWEST_THRESHOLD) for kind in config.kinds if _has_units(layer, kind)})
            for layer in spec.layers
        ]
        self.layers = cast(Sequence[nn.ParameterDict], nn.ModuleList(layers))

    def draw(self, encoder: SpeechEncoder, temperature: float) -> "PinchedDraw":
        """Compute every mask once, for a whole optimiser step and its global batch: the same on every rank."""
        return PinchedDraw(self, encoder, temperature)

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep every threshold in its effective range; below it, dL/dt vanishes and the threshold cannot return."""
        for threshold in self.parameters():
            threshold.clamp_(LOWEST_THRESHOLD, HIGHEST_THRESHOLD)

    def extra_repr(self) -> str:
        """The kinds."""
        return f"kinds={list(self.config.kinds)}"


@dataclass(frozen=True)
class PinchedUnits:
    """Which units are kept, 0 or 1."""

    spec: CompactSpec
    """The encoder's structure."""
    kept: dict[Slot, Tensor]
    """(n,) by slot; for single weights, by layer and kind."""

    def keep_probabilities(self) -> Masks:
        """`kept`."""
        return Masks.of(self.kept)


def slot_name(kind: str) -> str:
    """Name for the masks of a kind: the slot that they fill; the kind for single weights, which fill no slot."""
    return f"z_{kind}" if kind in STRUCTURED else kind


def _num_masks(layer: LayerSpec, kind: str) -> int:
    """Number of masks of a layer; for single weights, of which only the share is counted, 1 or 0."""
    return {"head": len(layer.heads), "int": len(layer.ffn)}.get(kind, int(_has_units(layer, kind)))


def _has_units(layer: LayerSpec, kind: str) -> bool:
    if kind in ("head", "attention_weights"):
        return any(head.qk or head.vo for head in layer.heads)
    return bool(layer.ffn)


def _squared_norms(layer: EncoderLayer, weights: dict[str, Tensor], kind: str) -> Tensor:
    """Squared norm of every unit's weights, without biases, (N,).

    A head has its q, k, v rows and o columns, an FFN dimension its row of fc1 and column of fc2, a weight itself.
    """
    if kind in _MATRICES:
        return torch.cat([weights[name].flatten() for name in _MATRICES[kind]]).square()
    if kind == "int":
        return weights["feed_forward.fc1.weight"].square().sum(1) + weights["feed_forward.fc2.weight"].square().sum(0)
    q, k, v, o = (weights[name].square() for name in _MATRICES["attention_weights"])
    assert layer.attention is not None
    qk = (q + k).sum(1).split(layer.attention.qk_heads.sizes)
    vo = (v.sum(1) + o.sum(0)).split(layer.attention.vo_heads.sizes)
    return torch.stack([a.sum() + b.sum() for a, b in zip(qk, vo, strict=True)])


class PinchedDraw(MaskDraw):
    """The masks of one optimiser step, detached from thresholds and weights, so that their gradient passes back once.

    As with `MaskDraw`, the encoder gets parts of one leaf tensor, whose gradient is summed over micro-batches and
    ranks, and `backward` sends the sum back. Masks of units fill the slots. For single weights the leaf holds the
    masked matrices themselves, which replace those in the encoder's linears between `fill` and `empty`.

    Attributes:
        hard: 0 or 1 per unit, by slot (for single weights: per weight, by layer and kind), without a gradient.
    """

    depends_on_weights = True

    def __init__(self, gates: SelfPinchingGates, encoder: SpeechEncoder, temperature: float):
        self._sources: list[tuple[nn.Parameter, Tensor]] = []  # a weight, and the alias that scores are computed from
        self._matrices: dict[Slot, nn.Parameter] = {}  # matrices that are masked weight by weight, unmasked
        hard: dict[Slot, Tensor] = {}
        masked: dict[Slot, Tensor] = {}
        with torch.autocast(next(encoder.parameters()).device.type, enabled=False):
            for index, (layer, thresholds) in enumerate(zip(encoder.layers, gates.layers, strict=True)):
                for kind, threshold in thresholds.items():
                    multiple = gates.config.dims_multiple if kind == "int" else None
                    z, parts = self._pinch(index, layer, kind, threshold, temperature, multiple)
                    hard |= z
                    masked |= parts
        super().__init__(Masks.of(masked), gates.spec)
        made = Masks.of(hard)
        self._hard = made.flat
        self.hard = Masks(made.table, made.flat.detach())
        self._counted = Masks(made.table, made.flat.detach().requires_grad_())

    def _pinch(
        self, index: int, layer: EncoderLayer, kind: str, threshold: Tensor, temperature: float, multiple: int | None
    ) -> tuple[dict[Slot, Tensor], dict[Slot, Tensor]]:
        """The masks of one layer and kind, and what the encoder uses: the same masks, or the masked matrices, flat.

        Both have a graph to the threshold and the aliases.
        """
        names = _MATRICES["attention_weights" if kind in ("head", "attention_weights") else "ffn_weights"]
        weights = {name: layer.get_parameter(name) for name in names}
        aliases = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        self._sources += [(weights[name], aliases[name]) for name in names]
        structured = kind in STRUCTURED
        scores = unit_scores(_squared_norms(layer, aliases, kind))
        z = pinch(scores, threshold, temperature, structured=structured, multiple=multiple)
        hard = {(index, slot_name(kind)): z}
        if structured:
            return hard, hard
        self._matrices |= {(index, name): weight for name, weight in weights.items()}
        parts = z.split([alias.numel() for alias in aliases.values()])
        return hard, {(index, name): aliases[name].flatten() * part for name, part in zip(names, parts, strict=True)}

    def keep_probabilities(self) -> Masks:
        """0 or 1 per unit, (n,) by slot (by layer and kind for single weights), as `GateSet`'s probabilities.

        `backward` adds the gradient of a count of them to that of the masks.
        """
        return self._counted

    def hard_masks(self) -> dict[Slot, Tensor]:
        """0/1 masks by slot; for single weights, by layer and name of the matrix, in its shape."""
        masks = {slot: z for slot, z in self.hard.items() if slot[1] not in UNSTRUCTURED}
        for index, kind in self.hard.keys() - masks.keys():
            matrices = [self._matrices[index, name] for name in _MATRICES[kind]]
            parts = self.hard[index, kind].split([matrix.numel() for matrix in matrices])
            for name, matrix, part in zip(_MATRICES[kind], matrices, parts, strict=True):
                masks[index, name] = part.view_as(matrix)
        return masks

    def _living(self) -> Masks:
        """With masks of single weights, a sublayer is alive while one of its weights is."""
        if not self._matrices:
            return self.masks
        return Masks.of({(i, _SUBLAYERS[kind]): z.any()[None] for (i, kind), z in self.hard.items()})

    def averages(self) -> dict[str, list[float]]:
        """Mean mask per slot name (kind of single weights) and layer."""
        return averages(self.hard, self.spec)

    def fill(self, encoder: SpeechEncoder) -> None:
        """Put masks into the slots, or replace the encoder's matrices by the masked ones."""
        if not self._matrices:
            return super().fill(encoder)
        for (index, name), matrix in self._matrices.items():
            linear, attribute = _owner(encoder, index, name)
            del linear._parameters[attribute]  # a plain tensor can replace a parameter only after its deletion
            setattr(linear, attribute, self.masks[index, name].view_as(matrix))

    def empty(self, encoder: SpeechEncoder) -> None:
        """Remove the masks, or restore the encoder's matrices."""
        super().empty(encoder)
        for (index, name), matrix in self._matrices.items():
            linear, attribute = _owner(encoder, index, name)
            delattr(linear, attribute)
            linear.register_parameter(attribute, matrix)

    @torch.no_grad()
    def renew(self) -> None:
        """As `MaskDraw.renew`."""
        if self._matrices:
            for (index, name), z in self.hard_masks().items():
                self.masks[index, name].copy_((self._matrices[index, name] * z).flatten())

    def backward(self, gradient: Tensor, *, loss_scale: Tensor | float = 1.0) -> None:
        """Backpropagate the gradients of masks and count to the thresholds and, through the scores, to the weights.

        The weights' part is added to their `.grad`, which still contains the loss scale and is summed over the ranks
        later: it is scaled to match.

        Args:
            gradient: (N,), as `gradient` returned it, summed over ranks.
            loss_scale: divided out of `gradient`.
        """
        if not self._drawn.requires_grad:
            return
        outputs, gradients = [self._drawn], [gradient / loss_scale]
        if (counted := self._counted.flat.grad) is not None:
            outputs, gradients = [*outputs, self._hard], [*gradients, counted]
        torch.autograd.backward(outputs, gradients)
        for weight, alias in self._sources:
            assert alias.grad is not None
            own = alias.grad * (loss_scale / distributed.world_size())
            weight.grad = own if weight.grad is None else weight.grad.add_(own)


def _owner(encoder: SpeechEncoder, index: int, name: str) -> tuple[nn.Module, str]:
    """The linear of layer `index` that holds the matrix `name`, and the matrix's name in it."""
    module, _, attribute = name.rpartition(".")
    return encoder.layers[index].get_submodule(module), attribute
