"""What every pruner does, and what an expert needs to know of it.

One optimiser step:

    draw         the step's masks, for all its micro-batches
    penalty      what holds the sparsity at its target, once the micro-batches' gradients are there
    clamp        after the optimisers' step

At any time `final_masks` says what would be exported.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from s3prl_pruned.compressors.magnitude import plain_state
from s3prl_pruned.config import to_dict
from s3prl_pruned.export.masks import FinalMasks
from s3prl_pruned.gates.attach import MaskDraw
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec, LayerSpec


@dataclass(frozen=True)
class Step:
    """An optimiser step."""

    number: int
    """1 to `total`."""
    total: int
    """Steps of the run."""


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """What the sparsity costs in a step."""

    records: dict[str, float | Tensor]
    """`expected_...` and `target_...` of what is held at a target, and more, for the log; scalars of the device are
    read later."""
    value: Tensor | None = None
    """Added to the loss, a scalar; None where nothing is learned about what goes."""


Losses = Callable[[MaskDraw, int, float], Iterable[Tensor]]
"""`losses(draw, number, share)`: the student's loss, a scalar, on each batch of a share of an epoch, with `draw` in its
slots; another epoch for every number. With several processes each gets its part of the batches."""


class Pruner(Protocol):
    """Takes units, or single weights, of a student away while it trains."""

    @property
    def student(self) -> SpeechEncoder:
        """What is trained."""
        ...

    @property
    def gates(self) -> nn.Module:
        """What is learned or kept of the masks: gates, or a `Compressor`; `Gates` of a checkpoint."""
        ...

    @property
    def multipliers(self) -> nn.Module:
        """What holds the target, maximised; `Lagrangian` of a checkpoint."""
        ...

    @property
    def target_sparsity(self) -> float:
        """What the run is to reach."""
        ...

    @property
    def aim(self) -> str:
        """What the run is to reach, in words."""
        ...

    def draw(self, step: Step, losses: Losses | None = None) -> MaskDraw:
        """The masks of a step, the same on every rank.

        Args:
            step: which.
            losses: for pruners that look at data first.
        """
        ...

    def penalty(self, step: Step, draw: MaskDraw) -> Penalty:
        """What the sparsity costs in a step, with a gradient to `gates` and `multipliers`."""
        ...

    def clamp(self) -> None:
        """Keep every decision reversible; called after the optimisers' step."""
        ...

    def final_masks(self) -> FinalMasks:
        """The deterministic masks, as things stand."""
        ...

    def final_draw(self, final: FinalMasks) -> MaskDraw:
        """Those masks, for the student of the training, whose weights are not folded."""
        ...

    def figures(self, final: FinalMasks) -> dict[str, Any]:
        """What an export's card says of the target beside the realised sparsity: `expected`, and more."""
        ...

    def log_records(self, draw: MaskDraw, whole: CompactSpec) -> dict[str, Any]:
        """What a line of the log says of the masks: `realised_sparsity`, `remaining` as shares of `whole`, and more."""
        ...

    def state(self) -> dict[str, Any]:
        """Entries of a checkpoint: `parts_state` and what only this pruner has."""
        ...

    def load_state(self, states: dict[str, Any]) -> None:
        """The reverse of `state`.

        Raises:
            UserError: the run was started with something else than is given now.
        """
        ...


def parts_state(pruner: Pruner) -> dict[str, Any]:
    """Entries of a checkpoint that all pruners have. Weights are as they are used: zeros where they are pruned."""
    student = pruner.student
    return {
        "Student": plain_state(student),
        "Gates": pruner.gates.state_dict(),
        "Lagrangian": pruner.multipliers.state_dict(),
        "Encoder_Config": to_dict(student.config),
        "Spec": student.spec.to_dict(),
        "Target_Sparsity": pruner.target_sparsity,
    }


def load_parts(pruner: Pruner, states: dict[str, Any]) -> None:
    """The reverse of `parts_state`."""
    pruner.student.load_state_dict(states["Student"])
    pruner.gates.load_state_dict(states["Gates"])
    pruner.multipliers.load_state_dict(states.get("Lagrangian", {}))


_UNITS: dict[str, Callable[[LayerSpec], int]] = {
    "heads": lambda layer: len(layer.heads),
    "qk": lambda layer: sum(len(head.qk) for head in layer.heads),
    "vo": lambda layer: sum(len(head.vo) for head in layer.heads),
    "ffn": lambda layer: len(layer.ffn),
}
"""Units of a layer that masks remove, by name in the log."""


def remaining_units(kept: CompactSpec, whole: CompactSpec) -> dict[str, list[float]]:
    """Shares of each layer's units that remain, by kind (0 where there were none)."""
    pairs = list(zip(kept.layers, whole.layers, strict=True))
    return {kind: [count(after) / (count(before) or 1) for after, before in pairs] for kind, count in _UNITS.items()}
