"""The interface of all pruners to the experts.

One optimiser step:

    draw         masks of the step, for all its micro-batches
    penalty      penalty of the sparsity, after the backward passes of the micro-batches
    clamp        after the optimiser step

At any time, `final_masks` returns the masks for an export.
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
    """Number of the step, 1 to `total`."""
    total: int
    """Number of steps of the run."""


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """Penalty of the sparsity in a step."""

    records: dict[str, float | Tensor]
    """`expected_...` and `target_...` of the controlled quantities, and more, for the log; scalars on the device, which
    are read later."""
    value: Tensor | None = None
    """Term added to the loss, a scalar; None if no gates are learned."""


Losses = Callable[[MaskDraw, int, float], Iterable[Tensor]]
"""`losses(draw, number, share)`: loss of the student, a scalar, on each batch of a share of an epoch, with `draw` in
its slots; every `number` gives another epoch. Each of several processes gets its part of the batches."""


class Pruner(Protocol):
    """Removes units, or single weights, of a student during training."""

    @property
    def student(self) -> SpeechEncoder:
        """The trained encoder."""
        ...

    @property
    def gates(self) -> nn.Module:
        """Module that learns or holds the masks: gates, or a `Compressor`; entry `Gates` of a checkpoint."""
        ...

    @property
    def multipliers(self) -> nn.Module:
        """Module that controls the target, trained by ascent; entry `Lagrangian` of a checkpoint."""
        ...

    @property
    def target_sparsity(self) -> float:
        """Target sparsity of the run."""
        ...

    @property
    def aim(self) -> str:
        """Target of the run, in words."""
        ...

    def draw(self, step: Step, losses: Losses | None = None) -> MaskDraw:
        """Masks of a step, the same on every rank.

        Args:
            step: the optimiser step.
            losses: for pruners that need losses on data first.
        """
        ...

    def penalty(self, step: Step, draw: MaskDraw) -> Penalty:
        """Penalty of the sparsity in a step, with a gradient to `gates` and `multipliers`."""
        ...

    def clamp(self) -> None:
        """Clamp the gates, so that every decision stays reversible; called after the optimiser step."""
        ...

    def final_masks(self) -> FinalMasks:
        """The final masks for the current state of training."""
        ...

    def final_draw(self, final: FinalMasks) -> MaskDraw:
        """These masks in a form for the student in training, whose weights are not folded."""
        ...

    def figures(self, final: FinalMasks) -> dict[str, Any]:
        """Entries of an export's card about the target, besides the realised sparsity: `expected`, and more."""
        ...

    def log_records(self, draw: MaskDraw, whole: CompactSpec) -> dict[str, Any]:
        """Entries of the log about the masks: `realised_sparsity`, `remaining` as shares of `whole`, and more."""
        ...

    def state(self) -> dict[str, Any]:
        """Entries of a checkpoint: `parts_state`, and those that only this pruner has."""
        ...

    def load_state(self, states: dict[str, Any]) -> None:
        """Reverse of `state`.

        Raises:
            UserError: the run was started with other inputs (export or latency table) than now.
        """
        ...


def parts_state(pruner: Pruner) -> dict[str, Any]:
    """Entries of a checkpoint that all pruners have. Weights are saved as used: zero where they are pruned."""
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
    """Reverse of `parts_state`."""
    pruner.student.load_state_dict(states["Student"])
    pruner.gates.load_state_dict(states["Gates"])
    pruner.multipliers.load_state_dict(states.get("Lagrangian", {}))


_UNITS: dict[str, Callable[[LayerSpec], int]] = {
    "heads": lambda layer: len(layer.heads),
    "qk": lambda layer: sum(len(head.qk) for head in layer.heads),
    "vo": lambda layer: sum(len(head.vo) for head in layer.heads),
    "ffn": lambda layer: len(layer.ffn),
}
"""Kinds of units that masks remove, with their names in the log."""


def remaining_units(kept: CompactSpec, whole: CompactSpec) -> dict[str, list[float]]:
    """Kept shares of each layer's units, by kind (0 if there were none)."""
    pairs = list(zip(kept.layers, whole.layers, strict=True))
    return {kind: [count(after) / (count(before) or 1) for after, before in pairs] for kind, count in _UNITS.items()}
