"""Self-pinching masks (0 and 1) of units or of single weights (Xu et al. 2025)."""

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
    """A `Pruner` with learned thresholds.

    Args:
        student: the trained encoder.
        config: kinds of units and the temperature.
        control: control of the target.
    """

    def __init__(self, student: SpeechEncoder, config: SelfPinchingConfig, control: SizeControl):
        self.student, self.control = student, control
        self.gates, self.multipliers = SelfPinchingGates(student.spec, config), control.multipliers

    @property
    def target_sparsity(self) -> float:
        """Target sparsity of the run."""
        return self.control.target_sparsity

    @property
    def aim(self) -> str:
        """Target of the run, in words."""
        return self.control.aim + in_words(self.gates.config.dims_multiple)

    def draw(self, step: Step, losses: Losses | None = None) -> PinchedDraw:
        """Masks of a step, computed from thresholds and weights."""
        return self.gates.draw(self.student, self._temperature(step))

    def penalty(self, step: Step, draw: MaskDraw) -> Penalty:
        """Penalty of the control for the units that the step's masks keep."""
        penalty = self.control.penalty(draw, step)
        penalty.records["temperature"] = self._temperature(step)
        return penalty

    def _temperature(self, step: Step) -> float:
        return self.gates.config.temperature_at(step.number, step.total)

    def clamp(self) -> None:
        """Clamp every threshold to the range in which it has an effect."""
        self.gates.clamp()

    def final_masks(self) -> FinalMasks:
        """The masks of training, independent of the target."""
        return pinched_masks(self.gates, self.student)

    def final_draw(self, final: FinalMasks) -> PinchedDraw:
        """The masks of training."""
        return self.gates.draw(self.student, self.gates.config.final_temperature)

    def figures(self, final: FinalMasks) -> dict[str, Any]:
        """The expected sparsity is the realised one, since training counts hard masks."""
        return {"expected": final.sparsity}

    def log_records(self, draw: MaskDraw, whole: CompactSpec) -> dict[str, Any]:
        """Structure that the thresholds currently keep, and averages of the step's masks."""
        kept = self.final_masks()
        remaining = remaining_units(kept.spec, whole)
        return {**self.control.realised(kept), "mask_means": draw.averages(), "remaining": remaining}

    def state(self) -> dict[str, Any]:
        """Entries of a checkpoint."""
        return parts_state(self)

    def load_state(self, states: dict[str, Any]) -> None:
        """Reverse of `state`."""
        load_parts(self, states)
