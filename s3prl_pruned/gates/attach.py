"""Gates for the mask slots of an encoder: which, drawn how, and where their gradient is clipped."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from s3prl_pruned.config import UserError
from s3prl_pruned.gates.hard_concrete import HardConcrete
from s3prl_pruned.models.encoder import LayerMasks, SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec, EncoderConfig

LAYER_KINDS = ("mha", "qk", "vo", "head", "ffn", "int")
KINDS = (*LAYER_KINDS, "conv")


@dataclass(kw_only=True)
class InitialLogAlpha:
    """Start of the masks of single kinds, where it is not the common one (null)."""

    mha: float | None = None
    """Whole attentions."""
    qk: float | None = None
    """Query/key dimensions."""
    vo: float | None = None
    """Value/output dimensions."""
    head: float | None = None
    """Whole heads."""
    ffn: float | None = None
    """Whole feed-forwards."""
    int: float | None = None
    """Intermediate dimensions; CoFi and DPHuBERT: 0."""
    conv: float | None = None
    """Channels of the feature extractor."""


@dataclass(kw_only=True)
class GateConfig:
    """Which masks are learned, and how (Wang et al. 2023, section 3)."""

    kinds: tuple[str, ...] = ("mha", "qk", "vo", "ffn", "int")
    """Masks of eq. 3. The ablation "w/o FAHP" is `[mha, head, ffn, int]`: whole heads in place of qk and vo; beside them, a
    dimension's mask is the product of its own and its head's. `conv` prunes
    channels of the feature extractor too, which the paper leaves whole (Peng et al. 2023, DPHuBERT); its weights then
    count in the sparsity (`sparsity/counts.py`)."""

    straight_through: bool = True
    """Gradient through the clamp by eq. 4; False is the ablation "w/o STE"."""

    initial_log_alpha: float = 4.605
    """Start of every mask. The paper leaves it open; CoFi starts coarse masks at 10 (clamped to 4.605 after one step)
    and FFN dims at 0, which halves the FFN's activations. At 4.605 P(z > 0) is 0.998 and 95 % of the draws are exactly
    1: the student starts as nearly the teacher as a gate that still has a gradient can."""

    initial_by_kind: InitialLogAlpha = field(default_factory=InitialLogAlpha)
    """Another start for some kinds. CoFi's and DPHuBERT's choice is `{int: 0}`: the student is not the teacher at first."""

    max_log_alpha: float = 4.605
    """|log_alpha| is clamped to this after each step (CoFi; logit of 0.99), so that no decision becomes final."""

    def validate(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise UserError(f"`kinds` must be distinct masks out of {list(KINDS)}, but is {list(self.kinds)}.")
        if not 0 < self.max_log_alpha:
            raise UserError(f"`max_log_alpha` must be positive, but is {self.max_log_alpha}.")
        starts = {f"initial_by_kind.{kind}": self.start_of(kind) for kind in KINDS}
        for name, start in {"initial_log_alpha": self.initial_log_alpha, **starts}.items():
            if abs(start) > self.max_log_alpha:
                raise UserError(f"`{name}` must be within +-`max_log_alpha` ({self.max_log_alpha}), but is {start}.")

    def start_of(self, kind: str) -> float:
        """Initial log_alpha of a kind."""
        own = getattr(self.initial_by_kind, kind)
        return self.initial_log_alpha if own is None else own

    def closed(self) -> "GateConfig":
        """The same gates, all at their lower limit."""
        return replace(self, initial_log_alpha=-self.max_log_alpha, initial_by_kind=InitialLogAlpha())


class GateSet(nn.Module):
    """One group of hard concrete masks per layer and kind, for the slots of an encoder with structure `spec`.

    Args:
        spec: what the encoder has left.
        config: which masks, and how.
        shape: the encoder's dense shape; only the kind `conv` needs it.
    """

    def __init__(self, spec: CompactSpec, config: GateConfig, shape: EncoderConfig | None = None):
        super().__init__()
        self.spec = spec
        self.config = config
        self.layers = nn.ModuleList()
        for layer in spec.layers:
            sizes = {kind: size for kind, size in layer.mask_sizes.items() if kind in config.kinds and size}
            self.layers.append(nn.ModuleDict({f"z_{kind}": self._gate(kind, size) for kind, size in sizes.items()}))
        conv = spec.conv_mask_sizes(shape) if "conv" in config.kinds else ()
        self.cnn = nn.ModuleDict({str(i): self._gate("conv", size) for i, size in enumerate(conv) if size})

    def _gate(self, kind: str, size: int) -> HardConcrete:
        start, straight_through = self.config.start_of(kind), self.config.straight_through
        return HardConcrete(size, initial_log_alpha=start, straight_through=straight_through)

    def items(self) -> list[tuple[int, str, HardConcrete]]:
        """(layer, slot name such as `z_qk`, gate), in a fixed order; of `z_conv` the layer is one of the CNN."""
        layers = [(i, name, gate) for i, gates in enumerate(self.layers) for name, gate in gates.items()]
        return layers + [(int(i), "z_conv", gate) for i, gate in self.cnn.items()]

    def draw(self, generator: torch.Generator) -> "MaskDraw":
        """Draw every mask once, for a whole optimiser step and its global batch.

        Args:
            generator: on the CPU; the same state on every rank gives every rank the same masks.
        """
        masks = {(i, name): gate(self._noise(gate, generator)) for i, name, gate in self.items()}
        return MaskDraw(masks, self.spec)

    @staticmethod
    def _noise(gate: HardConcrete, generator: torch.Generator) -> Tensor:
        return torch.rand(gate.log_alpha.shape, generator=generator).to(gate.log_alpha.device)

    def clamp(self) -> None:
        """Keep every log_alpha within the configured limit; call it after each optimiser step."""
        for _, _, gate in self.items():
            gate.clamp(self.config.max_log_alpha)

    def keep_probabilities(self, layer: int) -> dict[str, Tensor]:
        """P(z > 0) per slot name of one layer."""
        return {name: gate.keep_probability() for name, gate in self.layers[layer].items()}

    def channel_probabilities(self) -> dict[int, Tensor]:
        """P(z > 0) of the channels, per layer of the CNN that has masks."""
        return {int(i): gate.keep_probability() for i, gate in self.cnn.items()}


def arrange(masks: dict[tuple[int, str], Tensor], spec: CompactSpec) -> tuple[list[LayerMasks], dict[int, Tensor]]:
    """Masks by layer and slot name, as `SpeechEncoder.set_masks` takes them: of the layers, and of the CNN's layers.

    What names no slot of the encoder (masks of single weights) is left to its owner.
    """
    layers = [LayerMasks() for _ in spec.layers]
    for (layer, name), z in masks.items():
        if name in vars(layers[0]):
            setattr(layers[layer], name, z)
    return layers, {layer: z for (layer, name), z in masks.items() if name == "z_conv"}


class MaskDraw:
    """One draw of all masks, cut off from its log_alpha so that the gradient passes once per optimiser step.

    Eq. 4's clip is not linear. Clipping per micro-batch, per rank or under a loss scale would give different
    gradients from clipping once. So the encoder gets leaf tensors, their gradients accumulate over micro-batches, and
    `backward` sends the step's whole gradient through the clip.

    Attributes:
        masks, conv_masks: for `SpeechEncoder.set_masks`; `conv_masks` is empty where the CNN has no gates.
    """

    def __init__(self, drawn: dict[tuple[int, str], Tensor], spec: CompactSpec):
        self.spec = spec
        self._drawn = drawn
        self._leaves = {key: z.detach().requires_grad_() for key, z in drawn.items()}
        self.masks, self.conv_masks = arrange(self._leaves, spec)

    def fill(self, encoder: SpeechEncoder) -> None:
        """Put the masks into the encoder's slots, for all micro-batches of the step."""
        encoder.set_masks(self.masks, self.conv_masks)

    def empty(self, encoder: SpeechEncoder) -> None:
        """Take them out again."""
        encoder.set_masks(None)

    def averages(self) -> dict[str, list[float]]:
        """Mean mask per slot name and layer (Wang et al. 2023, Figure 3a); 0 where a layer has no such slot."""
        averages: dict[str, list[float]] = {}
        for (layer, name), z in self._leaves.items():
            size = max(self.conv_masks) + 1 if name == "z_conv" else len(self.masks)
            averages.setdefault(name, [0.0] * size)[layer] = float(z.detach().mean())
        return averages

    def existing_layers(self) -> list[bool]:
        """Whether each layer exists under this draw: its attention or its feed-forward lives."""

        def alive(z: Tensor | None) -> bool:
            return z is None or bool(z.detach().any())

        return [
            (layer.attention and alive(mask.z_mha)) or (layer.feed_forward and alive(mask.z_ffn))
            for layer, mask in zip(self.spec.layers, self.masks, strict=True)
        ]

    def gradients(self) -> list[Tensor]:
        """The accumulated dL/dz of every mask, in a fixed order (zeros where none arrived)."""
        return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in self._leaves.values()]

    def backward(self, gradients: list[Tensor], *, loss_scale: float = 1.0) -> None:
        """Send dL/dz back to log_alpha.

        Args:
            gradients: what `gradients` gave, summed over ranks.
            loss_scale: divided out before eq. 4's clip.
        """
        torch.autograd.backward(list(self._drawn.values()), [grad / loss_scale for grad in gradients])
