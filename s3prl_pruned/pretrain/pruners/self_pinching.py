"""Self-pinching masks, 0 and 1, of units or of single weights (Xu et al. 2025)."""

from typing import Any

from s3prl_pruned.export.masks import FinalMasks, pinched_masks
from s3prl_pruned.gates.attach import MaskDraw
from s3prl_pruned.gates.multiples import in_words
from s3prl_pruned.gates.self_pinching import PinchedDraw, SelfPinchingConfig, SelfPinchingGates
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.pretrain.pruners.control import SizeControl
from s3prl_pruned.pretrain.pruners.pruner import Losses, Penalty, Step, load_parts, parts_state, remaining_units


class SelfPinchingPruner:
    """A `Pruner` with thresholds that are learned.

    Args:
        student: what is trained.
        config: which units, and how sharply.
        control: the target.
    """

    def __init__(self, student: SpeechEncoder, config: SelfPinchingConfig, control: SizeControl):
        self.student, self.control = student, control
        self.gates, self.multipliers = SelfPinchingGates(student.spec, config), control.multipliers

    @property
    def target_sparsity(self) -> float:
        """What the run is to reach."""
        return self.control.target_sparsity

    @property
    def aim(self) -> str:
        """What the run is to reach, in words."""
        return self.control.aim + in_words(self.gates.config.dims_multiple)

    def draw(self, step: Step, losses: Losses | None = None) -> PinchedDraw:
        """The masks of a step, made from thresholds and weights."""
        return self.gates.draw(self.student, self._temperature(step))

    def penalty(self, step: Step, draw: MaskDraw) -> Penalty:
        """What the control asks for the units that the step's masks keep."""
        penalty = self.control.penalty(draw, step)
        penalty.records["temperature"] = self._temperature(step)
        return penalty

    def _temperature(self, step: Step) -> float:
        return self.gates.config.temperature_at(step.number, step.total)

    def clamp(self) -> None:
        """Keep every threshold where it decides something."""
        self.gates.clamp()

    def final_masks(self) -> FinalMasks:
        """The masks of training, whatever the target."""
        return pinched_masks(self.gates, self.student)

    def final_draw(self, final: FinalMasks) -> PinchedDraw:
        """The masks of training."""
        return self.gates.draw(self.student, self.gates.config.final_temperature)

    def figures(self, final: FinalMasks) -> dict[str, Any]:
        """What is realised was counted in training too."""
        return {"expected": final.sparsity}

    def log_records(self, draw: MaskDraw, whole: CompactSpec) -> dict[str, Any]:
        """What the thresholds keep as they stand, and the step's mask averages."""
        kept = self.final_masks()
        remaining = remaining_units(kept.spec, whole)
        return {**self.control.realised(kept), "mask_means": draw.averages(), "remaining": remaining}

    def state(self) -> dict[str, Any]:
        """Entries of a checkpoint."""
        return parts_state(self)

    def load_state(self, states: dict[str, Any]) -> None:
        """The reverse of `state`."""
        load_parts(self, states)
