"""No pruning: a pruned student is trained as it is, in a second stage or on a task."""

from typing import Any

from torch import nn

from s3prl_pruned.config import UserError
from s3prl_pruned.export.masks import FinalMasks
from s3prl_pruned.gates.attach import MaskDraw
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.masks import Masks
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.pretrain.pruners.pruner import Losses, Penalty, Step, load_parts, parts_state, remaining_units
from s3prl_pruned.sparsity.counts import realised_sparsity


class NoPruner:
    """A `Pruner` without masks.

    Args:
        student: the trained encoder.
        export: in a second stage, the folder of the student's export.
        first_stage: hash (`sha256`) and provenance of that export.
    """

    def __init__(self, student: SpeechEncoder, export: str | None = None, first_stage: dict[str, Any] | None = None):
        self.student, self.gates, self.multipliers = student, nn.Module(), nn.Module()
        self.export, self.first_stage = export, first_stage

    @property
    def target_sparsity(self) -> float:
        """Sparsity of the student, which does not change."""
        return realised_sparsity(self.student.config, self.student.spec)

    @property
    def aim(self) -> str:
        """Target of the run, in words."""
        if self.export is None:
            return f"nothing is pruned (sparsity {self.target_sparsity:.4g})"
        return f"second stage without masks, from {self.export} (sparsity {self.target_sparsity:.4g})"

    def draw(self, step: Step, losses: Losses | None = None) -> MaskDraw:
        """No masks."""
        return MaskDraw(Masks.of({}), self.student.spec)

    def penalty(self, step: Step, draw: MaskDraw) -> Penalty:
        """No penalty; the sparsity is recorded."""
        return Penalty(records={"expected_sparsity": self.target_sparsity, "target_sparsity": self.target_sparsity})

    def clamp(self) -> None:
        """Nothing to do."""

    def final_masks(self) -> FinalMasks:
        """Masks that keep everything."""
        return FinalMasks.exact(Masks.of({}), self.student.spec, self.target_sparsity)

    def final_draw(self, final: FinalMasks) -> MaskDraw:
        """No masks."""
        return MaskDraw(final.masks, self.student.spec)

    def figures(self, final: FinalMasks) -> dict[str, Any]:
        """The expected sparsity is the realised one."""
        return {"expected": final.sparsity}

    def log_records(self, draw: MaskDraw, whole: CompactSpec) -> dict[str, Any]:
        """Kept units of each layer."""
        remaining = remaining_units(self.student.spec, whole)
        return {"realised_sparsity": self.target_sparsity, "remaining": remaining}

    def state(self) -> dict[str, Any]:
        """State with the record of the first stage."""
        return parts_state(self) | ({} if self.first_stage is None else {"First_Stage": self.first_stage})

    def load_state(self, states: dict[str, Any]) -> None:
        """Reverse of `state`.

        Raises:
            UserError: the folder holds another export than when the run was started.
        """
        if self.first_stage is not None and states["First_Stage"]["sha256"] != self.first_stage["sha256"]:
            raise UserError(
                f"{self.export}: is no longer the export that this run was started from (sha256 "
                f"{states['First_Stage']['sha256'][:12]}). Put that back, or start another run (-n NAME)."
            )
        load_parts(self, states)
