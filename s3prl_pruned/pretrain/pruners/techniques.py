"""The basic techniques (Lin et al. 2024): heads, rows or single weights are removed in rounds between steps."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from s3prl_pruned import distributed
from s3prl_pruned.compressors.compressor import Compressor
from s3prl_pruned.compressors.heads import HeadImportance
from s3prl_pruned.compressors.magnitude import set_weight_masks, weight_masks, weights_left
from s3prl_pruned.export.masks import FinalMasks
from s3prl_pruned.gates.attach import MaskDraw
from s3prl_pruned.models.compact import surviving_spec
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.pretrain.pruners.pruner import Losses, Penalty, Step, load_parts, parts_state, remaining_units
from s3prl_pruned.sparsity.counts import prunable_weights, sparsity


class TechniquesPruner:
    """A `Pruner` without learned gates: scores from weights or data decide what is removed.

    Args:
        compressor: holds the plan and the student.
    """

    def __init__(self, compressor: Compressor):
        self.student, self.compressor, self.multipliers = compressor.plan.student, compressor, nn.Module()

    @property
    def gates(self) -> Compressor:
        """The compressor, which holds the masks; they are not learned."""
        return self.compressor

    @property
    def target_sparsity(self) -> float:
        """Target sparsity, or the sparsity that results from an energy threshold."""
        return self.compressor.plan.target

    @property
    def aim(self) -> str:
        """Target of the run, in words."""
        return f"target sparsity {self.target_sparsity:.4g}"

    def draw(self, step: Step, losses: Losses | None = None) -> MaskDraw:
        """Run the rounds that are due before the step, and return masks of the remaining structure.

        Args:
            step: the optimiser step.
            losses: for head scores from data, which each round computes on another share of an epoch.
        """
        for number in self.compressor.rounds_before(step.number, step.total):
            self.compressor.prune(number, partial(self._head_scores, number, losses))
        return self._standing()

    def _standing(self) -> MaskDraw:
        return MaskDraw(self.compressor.masks(), self.student.spec)

    def _head_scores(self, number: int, losses: Losses | None) -> list[Tensor]:
        """`HeadImportance` of the remaining heads, per layer (heads,), computed without dropout."""
        assert losses is not None
        draw = self._standing()
        self.student.eval()
        draw.fill(self.student)
        with HeadImportance(self.student) as importance:
            for loss in losses(draw, number, self.compressor.config.data_share):
                importance.add(loss)
        draw.empty(self.student)
        self.student.train()
        return importance.scores(distributed.all_reduce_sums(importance.sums))

    def penalty(self, step: Step, draw: MaskDraw) -> Penalty:
        """No penalty; the sparsity is recorded."""
        return Penalty(
            records={
                "expected_sparsity": self.compressor.realised_sparsity(),
                "target_sparsity": self.compressor.scheduled_sparsity(),
            }
        )

    def clamp(self) -> None:
        """Nothing to do."""

    def final_masks(self) -> FinalMasks:
        """The current masks. Pruned single weights are zeros in the student."""
        masks, shape = self.compressor.masks(), self.student.config
        spec = surviving_spec(self.student.spec, masks)
        left = min(weights_left(self.student), prunable_weights(shape, spec))  # masked units may contain zeros too
        return FinalMasks.exact(masks, spec, sparsity(left, shape, spec))

    def final_draw(self, final: FinalMasks) -> MaskDraw:
        """The current masks."""
        return self._standing()

    def figures(self, final: FinalMasks) -> dict[str, Any]:
        """The expected sparsity is the realised one."""
        return {"expected": final.sparsity}

    def log_records(self, draw: MaskDraw, whole: CompactSpec) -> dict[str, Any]:
        """Structure that remains after the rounds so far."""
        remaining = remaining_units(self.compressor.surviving_spec(), whole)
        return {"realised_sparsity": self.compressor.realised_sparsity(), "remaining": remaining}

    def state(self) -> dict[str, Any]:
        """State with the masks of single weights."""
        return {**parts_state(self), "Weight_Masks": weight_masks(self.student)}

    def load_state(self, states: dict[str, Any]) -> None:
        """Reverse of `state`."""
        load_parts(self, states)
        device = self.student.mask_embedding.device
        set_weight_masks(self.student, {name: mask.to(device) for name, mask in states["Weight_Masks"].items()})
