"""Gates for the mask slots of an encoder: which ones, how they are drawn, and where their gradient is clipped."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from s3prl_pruned.config import ADDED, UserError
from s3prl_pruned.gates.hard_concrete import HardConcrete
from s3prl_pruned.gates.multiples import GROUPED_KINDS, WHOLE_HEADS, refuse_multiple
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.masks import BESIDE_LAYERS, KINDS, Masks, Slot, SlotTable, masks_of_layer
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec, LayerSpec
from s3prl_pruned.transfers import HostCopy, to_device


@dataclass(kw_only=True)
class InitialLogAlpha:
    """Initial log_alpha for single kinds of masks; null takes the common one."""

    mha: float | None = None
    """Whole attention sublayers."""
    qk: float | None = None
    """Query/key dimensions."""
    vo: float | None = None
    """Value/output dimensions."""
    head: float | None = None
    """Whole heads."""
    ffn: float | None = None
    """Whole feed-forward sublayers."""
    int: float | None = None
    """Intermediate dimensions; CoFi and DPHuBERT: 0."""
    conv: float | None = None
    """Channels of the feature extractor."""
    pos: float | None = field(default=None, metadata=ADDED)
    """Groups of the positional convolution."""


@dataclass(kw_only=True)
class GateConfig:
    """Which masks are learned, and how (Wang et al. 2023, section 3)."""

    kinds: tuple[str, ...] = ("mha", "qk", "vo", "ffn", "int")
    """Masks of eq. 3. The ablation "w/o FAHP" is `[mha, head, ffn, int]`: whole heads in place of qk and vo; together
    with them, a dimension's mask is the product of its own and its head's. `conv` also prunes channels of the feature
    extractor, as DPHuBERT does (Peng et al. 2023) and the paper does not; its weights then count in the sparsity
    (`sparsity/counts.py`). So do those of the positional convolution with `pos`, which prunes its groups (ours): 5 % of
    the parameters of Base, and 18 % of those of a Base pruned to 80 %."""

    straight_through: bool = True
    """Gradient through the clamp by eq. 4; False is the ablation "w/o STE"."""

    initial_log_alpha: float = 4.605
    """Initial log_alpha of every mask. The paper does not give it; CoFi starts coarse masks at 10 (clamped to 4.605
    after one step) and FFN dims at 0, which halves the FFN's activations. At 4.605 P(z > 0) is 0.998 and 95 % of the
    draws are exactly 1: the student starts as close to the teacher as gates with a gradient allow."""

    initial_by_kind: InitialLogAlpha = field(default_factory=InitialLogAlpha)
    """Other initial values for some kinds. CoFi and DPHuBERT use `{int: 0}`, with which the student differs from the
    teacher at the start."""

    max_log_alpha: float = field(default=7.0, metadata={"before": 4.605})
    """|log_alpha| is clamped to this after each step, so that no decision becomes final. CoFi uses 4.605, the logit of
    0.99: a closed gate then still counts as P(z > 0) = 0.047 of a unit, so that many closed gates count as a part of
    the model that does not exist. At 7 it is 0.0045 (LOG.md compares them)."""

    dims_multiple: Literal[2, 4, 8, 16, 32, "head"] | None = None
    """Restricts the sizes in the export, for GPUs and other formats (LOG.md has its cost). A number: the query/key and
    the value/output dimensions of each head, the dimensions of each feed-forward and, with the kind `conv`, the
    channels of each CNN layer are kept in multiples of it. Masks are learned as without this setting; the counts are
    rounded (`export/multiples.py`) when the masks become final and the weights settle under them
    (`sparsity.settle_fraction`). `head`: heads are kept or removed whole, by one mask of the kind `head` in place of
    those of their dimensions; FFN dimensions are free, and a sublayer without units is removed together with its output
    bias. DPHuBERT's and DiariZen's formats allow nothing else. (Nor do they allow a WavLM whose first layer has no
    attention.) null: any sizes."""

    def validate(self) -> None:
        """Raise UserError for unknown kinds, and for initial values outside `max_log_alpha`."""
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise UserError(f"`kinds` must be distinct masks out of {list(KINDS)}, but is {list(self.kinds)}.")
        if not self.max_log_alpha > 0:
            raise UserError(f"`max_log_alpha` must be positive, but is {self.max_log_alpha}.")
        starts = {f"initial_by_kind.{kind}": self.start_of(kind) for kind in KINDS}
        for name, start in {"initial_log_alpha": self.initial_log_alpha, **starts}.items():
            if abs(start) > self.max_log_alpha:
                raise UserError(f"`{name}` must be within +-`max_log_alpha` ({self.max_log_alpha}), but is {start}.")
        held = GROUPED_KINDS if self.unit_multiple else ("qk", "vo", "head")
        if self.dims_multiple is not None and not set(held) & set(self.kinds):
            raise UserError(
                f"`dims_multiple` is {self.dims_multiple}, but `kinds` is {list(self.kinds)}, which prunes none of "
                f"these sizes. Add one of {list(held)}, or leave `dims_multiple` out."
            )

    @property
    def unit_multiple(self) -> int | None:
        """`dims_multiple` where it is a number."""
        return self.dims_multiple if isinstance(self.dims_multiple, int) else None

    @property
    def learned_kinds(self) -> tuple[str, ...]:
        """`kinds`; if heads stay whole, with `head` in place of `qk` and `vo`."""
        if self.dims_multiple != WHOLE_HEADS:
            return self.kinds
        return tuple(dict.fromkeys("head" if kind in ("qk", "vo") else kind for kind in self.kinds))

    def check_multiple(self, spec: CompactSpec, shape: EncoderConfig) -> None:
        """Raise UserError if an encoder cannot be pruned to `dims_multiple`.

        Args:
            spec: the encoder's structure.
            shape: its dense shape.
        """
        refuse_multiple(self.dims_multiple, self.learned_kinds, spec, shape)

    def start_of(self, kind: str) -> float:
        """Initial log_alpha of a kind."""
        own = getattr(self.initial_by_kind, kind)
        return self.initial_log_alpha if own is None else own

    def closed(self, spec: CompactSpec, shape: EncoderConfig) -> "GateSet":
        """The gates of an encoder, all at their lower limit: the most that they can prune.

        Args:
            spec: the encoder's structure.
            shape: its dense shape.
        """
        lowest = replace(self, initial_log_alpha=-self.max_log_alpha, initial_by_kind=InitialLogAlpha())
        return GateSet(spec, lowest, shape)


class GateSet(nn.Module):
    """Hard concrete masks for the slots of an encoder with structure `spec`.

    All log_alpha are one vector, so that a step draws, counts and clamps them in a few operations however many slots
    there are. In a state dict each slot has an entry of its own (`layers.0.z_qk.log_alpha`, `cnn.0.log_alpha`).

    Args:
        spec: the encoder's structure.
        config: which masks are learned, and how.
        shape: the encoder's dense shape; only the kinds `conv` and `pos` need it.
    """

    def __init__(self, spec: CompactSpec, config: GateConfig, shape: EncoderConfig | None = None):
        super().__init__()
        self.spec, self.config, self.shape = spec, config, shape
        self.table = SlotTable.of(spec, config.learned_kinds, shape)
        starts = [torch.full((n,), config.start_of(name[2:])) for (_, name), n in self.table.sizes.items()]
        self.log_alpha = nn.Parameter(torch.cat(starts) if starts else torch.zeros(0))

    def items(self) -> list[tuple[int, str, HardConcrete]]:
        """(layer, slot name such as `z_qk`, gate), in a fixed order; for `z_conv`, the layer is one of the CNN."""
        parts = [(i, name, self.log_alpha[part]) for (i, name), part in self.table.slices().items()]
        return [(i, name, self._gate(log_alpha)) for i, name, log_alpha in parts]

    def _gate(self, log_alpha: Tensor) -> HardConcrete:
        return HardConcrete(log_alpha, straight_through=self.config.straight_through)

    def draw(self, generator: torch.Generator) -> "MaskDraw":
        """Draw every mask once, for a whole optimiser step and its global batch.

        Args:
            generator: on the CPU; the same state on every rank gives every rank the same masks.
        """
        noise = to_device(torch.rand(self.log_alpha.shape, generator=generator), self.log_alpha.device)
        return MaskDraw(Masks(self.table, self._gate(self.log_alpha)(noise)), self.spec)

    def clamp(self) -> None:
        """Keep every log_alpha within the configured limit; call it after each optimiser step."""
        self._gate(self.log_alpha).clamp(self.config.max_log_alpha)

    def keep_probabilities(self) -> Masks:
        """P(z > 0), (n,) by slot."""
        return Masks(self.table, self._gate(self.log_alpha).keep_probability())

    def extra_repr(self) -> str:
        """The number of masks by slot name."""
        of = {
            name: sum(n for (_, other), n in self.table.sizes.items() if other == name) for _, name in self.table.sizes
        }
        return ", ".join(f"{name}={size}" for name, size in of.items())

    def _names(self, prefix: str) -> list[str]:
        """The key of each slot in a state dict."""
        others = {"z_conv": "cnn.{i}", "z_pos": "positional_convolution"}
        return [
            f"{prefix}{others.get(name, 'layers.{i}.{name}').format(i=i, name=name)}.log_alpha"
            for i, name in self.table.sizes
        ]

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        parts = self.table.split(self.log_alpha.detach()).values()
        destination.update({name: part.clone() for name, part in zip(self._names(prefix), parts, strict=True)})

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        names = self._names(prefix)
        if names and all(name in state_dict for name in names):
            state_dict[prefix + "log_alpha"] = torch.cat([state_dict.pop(name) for name in names])
        elif not names:
            state_dict[prefix + "log_alpha"] = self.log_alpha.detach()
        super()._load_from_state_dict(state_dict, prefix, *rest)


class MaskDraw:
    """The masks of one optimiser step, detached from what they depend on, so that their gradient passes back once.

    Eq. 4's clip is not linear. Clipping per micro-batch, per rank or under a loss scale would give different
    gradients from clipping once. So the encoder gets parts of one leaf tensor, whose gradient accumulates over
    micro-batches, and `backward` sends the step's whole gradient through the clip.

    Args:
        drawn: the masks, with a graph to what they depend on; without one, `backward` does nothing.
        spec: the encoder's structure.

    Attributes:
        masks: for `SpeechEncoder.set_masks`.
        depends_on_weights: whether `backward` adds to the gradients of the encoder's weights.
    """

    depends_on_weights = False

    def __init__(self, drawn: Masks, spec: CompactSpec):
        self.spec = spec
        self._drawn = drawn.flat
        self.masks = Masks(drawn.table, drawn.flat.detach().requires_grad_(drawn.flat.requires_grad))
        self._alive: HostCopy | None = None

    def fill(self, encoder: SpeechEncoder) -> None:
        """Put the masks into the encoder's slots, for all micro-batches of the step."""
        encoder.set_masks(self.masks)

    def empty(self, encoder: SpeechEncoder) -> None:
        """Remove the masks from the slots."""
        encoder.set_masks(None)

    def renew(self) -> None:
        """Keep the masks, and mask the weights as they are now, where `fill` puts masked weights into the encoder."""

    def averages(self) -> dict[str, list[float]]:
        """Mean mask per slot name and layer (Wang et al. 2023, Figure 3a); 0 where a layer has no such slot."""
        return averages(self.masks, self.spec)

    def keep_probabilities(self) -> Masks:
        """0 or 1 per unit, (n,) by slot: whether it is kept in this step."""
        return Masks(self.masks.table, (self.masks.flat.detach() != 0).float())

    def _living(self) -> Masks:
        """Masks that are not 0 where a unit, or a whole sublayer, is alive."""
        return self.masks

    def ask_existing(self) -> None:
        """Start copying what `existing_layers` needs from the device, without waiting for it."""
        if self._alive is None:
            self._alive = HostCopy(self._living().flat.detach() != 0)

    def existing_layers(self) -> list[bool]:
        """Whether each layer exists under this draw: a head or an intermediate dimension of it is alive."""
        self.ask_existing()
        assert self._alive is not None
        return existing_layers(Masks(self._living().table, self._alive.get()), self.spec)

    def gradient(self) -> Tensor:
        """The accumulated dL/dz of all masks, (N,); 0 for masks without one."""
        leaf = self.masks.flat
        return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad

    def backward(self, gradient: Tensor, *, loss_scale: Tensor | float = 1.0) -> None:
        """Backpropagate dL/dz to what the masks depend on.

        Args:
            gradient: (N,), as `gradient` returned it, summed over ranks.
            loss_scale: divided out before eq. 4's clip.
        """
        if self._drawn.requires_grad:
            self._drawn.backward(gradient / loss_scale)


def averages(masks: Mapping[Slot, Tensor], spec: CompactSpec) -> dict[str, list[float]]:
    """Mean mask per slot name and layer; 0 where a layer has no such slot."""
    found: dict[str, list[float]] = {}
    masks = masks.to("cpu") if isinstance(masks, Masks) else masks
    others = {name: 1 + i for i, name in sorted(masks) if name in BESIDE_LAYERS}  # number of layers by slot name
    for (layer, name), z in masks.items():
        size = others.get(name, len(spec.layers))
        found.setdefault(name, [0.0] * size)[layer] = float(z.detach().mean())
    return found


def existing_layers(alive: Mapping[Slot, Tensor], spec: CompactSpec) -> list[bool]:
    """Whether each layer of `spec` exists under masks: a head or an intermediate dimension of it is alive.

    The rule is that of `models.compact.surviving_spec`. A sublayer without units is only its output bias.

    Args:
        alive: (n,) bool per unit, by slot, on the CPU; an empty slot keeps everything.
        spec: the encoder's structure.
    """
    return [_exists(layer, masks_of_layer(alive, i)) for i, layer in enumerate(spec.layers)]


def _exists(layer: LayerSpec, alive: dict[str, Tensor]) -> bool:
    def of(name: str, size: int) -> Tensor:
        return alive.get(name, torch.ones(size, dtype=torch.bool))

    sizes = [len(head.vo) for head in layer.heads]
    values = of("z_vo", sum(sizes)) & of("z_head", len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.long))
    attention = layer.attention and bool(of("z_mha", 1) & values.any())
    return attention or (layer.feed_forward and bool(of("z_ffn", 1) & of("z_int", len(layer.ffn)).any()))
