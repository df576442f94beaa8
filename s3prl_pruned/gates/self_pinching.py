"""Self-pinching gates (Xu et al. 2025): one learnable threshold per layer and unit type, units scored by their own weights.

    score = (s - min s) / (max s - min s + 1e-8) + 1e-5        s: squared norm of a unit's weights, per layer and type
    m = sigmoid((score - t^2) / (10 tau))                      single weights: / tau
    z = round(m) forward, m backward                           to t and, through the score, to the weights

Everything here computes in fp32, under autocast too.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s3prl_pruned import distributed
from s3prl_pruned.config import UserError
from s3prl_pruned.gates.attach import MaskDraw
from s3prl_pruned.models.encoder import EncoderLayer, SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec, LayerSpec, Ranks

STRUCTURED = ("head", "int")
UNSTRUCTURED = ("attention_weights", "ffn_weights")
LOWEST_SCORE = 1e-5
"""Of the unit with the smallest norm; it keeps dL/dt from vanishing where t begins."""
_RANGE_FLOOR = 1e-8
_STRUCTURED_SCALE = 10.0

LOWEST_THRESHOLD = 0.0031622776
"""Start of every threshold: the largest fp32 number whose square is not above `LOWEST_SCORE`. It prunes nothing yet."""
HIGHEST_THRESHOLD = 1.00001
"""Its square is above every score: it prunes everything."""

_MATRICES = {
    "attention_weights": tuple(f"attention.{name}.weight" for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
    "ffn_weights": ("feed_forward.fc1.weight", "feed_forward.fc2.weight"),
}


@dataclass(kw_only=True)
class SelfPinchingConfig:
    """Which units are pinched, and how sharply (Xu et al. 2025)."""

    kinds: tuple[str, ...] = STRUCTURED
    """Unit types, each with one threshold per layer: `head` (whole heads) and `int` (FFN dimensions); or single weights,
    `attention_weights` (the four matrices of a layer under one threshold) and `ffn_weights` (its two)."""

    initial_temperature: float = 0.5
    """tau at the first step; it falls by a cosine."""

    final_temperature: float = 0.01
    """tau at the last step."""

    def validate(self) -> None:
        allowed = UNSTRUCTURED if set(self.kinds) & set(UNSTRUCTURED) else STRUCTURED
        if not self.kinds or len(set(self.kinds)) < len(self.kinds) or not set(self.kinds) <= set(allowed):
            raise UserError(
                f"`kinds` must be distinct, out of {list(STRUCTURED)} or out of {list(UNSTRUCTURED)} (not of both), "
                f"but is {list(self.kinds)}."
            )
        if not 0 < self.final_temperature <= self.initial_temperature:
            raise UserError(
                "`final_temperature` must be above 0 and at most `initial_temperature`, but they are "
                f"{self.final_temperature} and {self.initial_temperature}."
            )

    def temperature_at(self, step: int, total_steps: int) -> float:
        """tau of optimiser step `step` (1-based): half a cosine from the first step to the last."""
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


def pinch(scores: Tensor, threshold: Tensor, temperature: float, *, structured: bool) -> Tensor:
    """Masks of units, 0 or 1, (N,) fp32; the gradient is that of m, not of the rounding.

    `round(m)` is 1 where m is above 0.5, that is where the score is above t^2. The comparison is made there: fp32's
    sigmoid is exactly 0.5 close by, in a region that would change with the temperature. A tie is kept.

    Args:
        scores: of `unit_scores`.
        threshold: t, a scalar.
        temperature: tau.
        structured: units (argument divided by 10 tau) or single weights (by tau).
    """
    scale = temperature * (_STRUCTURED_SCALE if structured else 1.0)
    t_squared = threshold.float().square()
    m = torch.sigmoid((scores - t_squared) / scale)
    return (scores >= t_squared).float() + (m - m.detach())


class SelfPinchingGates(nn.Module):
    """One threshold per layer and unit type, for an encoder with structure `spec`.

    Its verbs are `GateSet`'s, but for what a mask depends on: the encoder's own weights and a temperature, no noise.
    """

    def __init__(self, spec: CompactSpec, config: SelfPinchingConfig):
        super().__init__()
        if config.kinds and any(layer.ranks != Ranks() for layer in spec.layers):
            raise UserError(
                "self-pinching gates score units by the rows and columns of their matrices, but this model holds some as two "
                "low-rank factors. Prune first, then factorise."
            )
        self.spec = spec
        self.config = config
        self.layers = nn.ModuleList(
            nn.ParameterDict({kind: torch.tensor(LOWEST_THRESHOLD) for kind in config.kinds if _has_units(layer, kind)})
            for layer in spec.layers
        )

    def draw(self, encoder: SpeechEncoder, temperature: float) -> "PinchedDraw":
        """Compute every mask once, for a whole optimiser step and its global batch: the same on every rank."""
        return PinchedDraw(self, encoder, temperature)

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep every threshold where it decides something: below, dL/dt fades and nothing more comes back."""
        for threshold in self.parameters():
            threshold.clamp_(LOWEST_THRESHOLD, HIGHEST_THRESHOLD)

    def extra_repr(self) -> str:
        return f"kinds={list(self.config.kinds)}"


def _has_units(layer: LayerSpec, kind: str) -> bool:
    if kind in ("head", "attention_weights"):
        return any(head.qk or head.vo for head in layer.heads)
    return bool(layer.ffn)


def _squared_norms(layer: EncoderLayer, weights: dict[str, Tensor], kind: str) -> Tensor:
    """Squared norm of every unit's weights, without biases, (N,): a head's q, k, v rows and o columns, an FFN
    dimension's row of fc1 and column of fc2, a weight's own square."""
    if kind in _MATRICES:
        return torch.cat([weights[name].flatten() for name in _MATRICES[kind]]).square()
    if kind == "int":
        return weights["feed_forward.fc1.weight"].square().sum(1) + weights["feed_forward.fc2.weight"].square().sum(0)
    q, k, v, o = (weights[name].square() for name in _MATRICES["attention_weights"])
    qk = (q + k).sum(1).split(layer.attention.qk_heads.sizes)
    vo = (v.sum(1) + o.sum(0)).split(layer.attention.vo_heads.sizes)
    return torch.stack([a.sum() + b.sum() for a, b in zip(qk, vo, strict=True)])


class PinchedDraw(MaskDraw):
    """The masks of one optimiser step, cut off from thresholds and weights so that the gradient passes once.

    As with `MaskDraw`, the encoder gets leaf tensors, their gradients are summed over micro-batches and ranks, and
    `backward` sends the whole of it back. Masks of units fill the slots. For single weights the leaves are the masked
    matrices themselves, which stand in the encoder's linears between `fill` and `empty`.
    """

    def __init__(self, gates: SelfPinchingGates, encoder: SpeechEncoder, temperature: float):
        self._sources: list[tuple[nn.Parameter, Tensor]] = []  # a weight, and the alias that scores are computed from
        self._hard: dict[tuple[int, str], Tensor] = {}  # masks, by slot name or kind
        self._whole: dict[tuple[int, str], nn.Parameter] = {}  # matrices without their masks
        masked: dict[tuple[int, str], Tensor] = {}
        with torch.autocast(next(encoder.parameters()).device.type, enabled=False):
            for index, (layer, thresholds) in enumerate(zip(encoder.layers, gates.layers, strict=True)):
                for kind, threshold in thresholds.items():
                    masked |= self._pinch(index, layer, kind, threshold, temperature)
        super().__init__(masked, gates.spec)
        self._counted = {key: z.detach().requires_grad_() for key, z in self._hard.items()}

    def _pinch(
        self, index: int, layer: EncoderLayer, kind: str, threshold: Tensor, temperature: float
    ) -> dict[tuple[int, str], Tensor]:
        """Masks of one layer and kind, or the masked matrices; with a graph to the threshold and the aliases."""
        names = _MATRICES["attention_weights" if kind in ("head", "attention_weights") else "ffn_weights"]
        weights = {name: layer.get_parameter(name) for name in names}
        aliases = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        self._sources += [(weights[name], aliases[name]) for name in names]
        structured = kind in STRUCTURED
        scores = unit_scores(_squared_norms(layer, aliases, kind))
        z = pinch(scores, threshold, temperature, structured=structured)
        key = (index, f"z_{kind}" if structured else kind)
        self._hard[key] = z
        if structured:
            return {key: z}
        self._whole |= {(index, name): weight for name, weight in weights.items()}
        parts = z.split([alias.numel() for alias in aliases.values()])
        return {(index, name): aliases[name] * part.view_as(aliases[name]) for name, part in zip(names, parts, strict=True)}

    def keep_probabilities(self, layer: int) -> dict[str, Tensor]:
        """0 or 1 per unit of one layer, by slot name (by kind for single weights): what `GateSet`'s probabilities are to
        the count of the expected structure. The count's gradient joins the masks' own in `backward`."""
        return {name: z for (index, name), z in self._counted.items() if index == layer}

    def channel_probabilities(self) -> dict[int, Tensor]:
        """None: the CNN is not pinched."""
        return {}

    def hard_masks(self) -> dict[tuple[int, str], Tensor]:
        """0/1 masks by layer and slot name; of single weights, by layer and the matrix's name in it."""
        masks = {key: z.detach() for key, z in self._hard.items() if key[1] not in UNSTRUCTURED}
        for index, kind in self._hard.keys() - masks.keys():
            matrices = [self._whole[index, name] for name in _MATRICES[kind]]
            parts = self._hard[index, kind].detach().split([matrix.numel() for matrix in matrices])
            for name, matrix, part in zip(_MATRICES[kind], matrices, parts, strict=True):
                masks[index, name] = part.view_as(matrix)
        return masks

    def existing_layers(self) -> list[bool]:
        """Whether each layer exists: a head or an FFN dimension of it lives."""

        def alive(index: int, kind: str) -> bool:
            z = self._hard.get((index, f"z_{kind}"))
            return z is None or bool(z.any())

        return [
            (layer.attention and alive(i, "head")) or (layer.feed_forward and alive(i, "int"))
            for i, layer in enumerate(self.spec.layers)
        ]

    def averages(self) -> dict[str, list[float]]:
        averages = {name: [0.0] * len(self.spec.layers) for _, name in self._hard}
        for (index, name), z in self._hard.items():
            averages[name][index] = float(z.detach().mean())
        return averages

    def fill(self, encoder: SpeechEncoder) -> None:
        super().fill(encoder)
        for (index, name), masked in self._matrices():
            linear, attribute = _owner(encoder, index, name)
            del linear._parameters[attribute]  # a plain tensor may stand in a parameter's place only when it is gone
            setattr(linear, attribute, masked)

    def empty(self, encoder: SpeechEncoder) -> None:
        super().empty(encoder)
        for (index, name), _ in self._matrices():
            linear, attribute = _owner(encoder, index, name)
            delattr(linear, attribute)
            linear.register_parameter(attribute, self._whole[index, name])

    def _matrices(self) -> list[tuple[tuple[int, str], Tensor]]:
        return [(key, leaf) for key, leaf in self._leaves.items() if key in self._whole]

    def backward(self, gradients: list[Tensor], *, loss_scale: float = 1.0) -> None:
        """Send the gradients of masks and count back to the thresholds, and through the scores to the weights.

        The weights' part is added to their `.grad`, which still carries the loss scale and is still to be summed over
        the ranks: it is made to fit that.

        Args:
            gradients: what `gradients` gave, summed over ranks.
            loss_scale: divided out of them.
        """
        if not self._drawn:
            return
        counted = [(self._hard[key], leaf.grad) for key, leaf in self._counted.items() if leaf.grad is not None]
        outputs = [*self._drawn.values(), *(z for z, _ in counted)]
        torch.autograd.backward(outputs, [*(grad / loss_scale for grad in gradients), *(grad for _, grad in counted)])
        for weight, alias in self._sources:
            own = alias.grad * (loss_scale / distributed.world_size())
            weight.grad = own if weight.grad is None else weight.grad.add_(own)


def _owner(encoder: SpeechEncoder, index: int, name: str) -> tuple[nn.Module, str]:
    """The linear of layer `index` that holds the matrix `name`, and the matrix's name in it."""
    module, _, attribute = name.rpartition(".")
    return encoder.layers[index].get_submodule(module), attribute
