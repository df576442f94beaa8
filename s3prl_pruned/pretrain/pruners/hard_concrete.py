"""Hard concrete masks of units, driven to a target by multipliers (Wang et al. 2023)."""

import copy
from dataclasses import replace
from typing import Any

import torch

from s3prl_pruned.config import UserError, to_dict
from s3prl_pruned.export.masks import FinalMasks, final_masks
from s3prl_pruned.gates.attach import GateConfig, GateSet, MaskDraw
from s3prl_pruned.gates.multiples import in_words
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.pretrain.pruners.control import LagrangianControl
from s3prl_pruned.pretrain.pruners.pruner import Losses, Penalty, Step, load_parts, parts_state, remaining_units
from s3prl_pruned.sparsity.config import Target
from s3prl_pruned.sparsity.latency import LatencyTable


class HardConcretePruner:
    """A `Pruner` with hard concrete gates, whose log_alpha are learned.

    Args:
        student: the trained encoder.
        config: kinds and settings of the gates.
        control: control of the target.
        seed: seed of the masks.
    """

    def __init__(self, student: SpeechEncoder, config: GateConfig, control: LagrangianControl, *, seed: int):
        self.student, self.control, self.seed = student, control, seed
        self.gates, self.multipliers = GateSet(student.spec, config, student.config), control.multipliers
        self._settled: MaskDraw | None = None

    @property
    def target_sparsity(self) -> float:
        """Target sparsity of the run, if its target is of weights."""
        return self.control.target_sparsity

    @property
    def aim(self) -> str:
        """Target of the run, in words."""
        return self.control.aim + in_words(self.gates.config.dims_multiple)

    def draw(self, step: Step, losses: Losses | None = None) -> MaskDraw:
        """Masks of a step, which depend only on the seed and its number; at the end of a run, the exported masks."""
        if self.control.config.is_settling(step.number, step.total):
            if self._settled is None:  # gates no longer change, so that a resumed run computes the same masks
                self._settled = self.final_draw(self.final_masks())
            return self._settled
        return self.gates.draw(torch.Generator().manual_seed(self.seed * 1_000_003 + step.number))

    def penalty(self, step: Step, draw: MaskDraw) -> Penalty:
        """The Lagrangian of the expected reduction under the gates, independent of the drawn masks."""
        if self._settled is None:
            return self.control.penalty(self.gates, step)
        with torch.no_grad():
            return replace(self.control.penalty(self.gates, step), value=None)

    def clamp(self) -> None:
        """Clamp every log_alpha to its limits."""
        self.gates.clamp()

    def final_masks(self) -> FinalMasks:
        """The masks of `export.masks.final_masks`."""
        return final_masks(self.gates, self.student, self.control.config, self.control.table)

    def final_draw(self, final: FinalMasks) -> MaskDraw:
        """Soft values of the kept units, without a gradient."""
        return MaskDraw(final.masks.to(self.gates.log_alpha.device), self.student.spec)

    def aimed_at(self, target: Target, table: LatencyTable | None = None) -> "HardConcretePruner":
        """The same gates and student, for the final masks of another target: the run's own is what it is.

        Args:
            target: what `SparsityConfig.match_target` is to reach, whether the run asks for that or not.
            table: of a target of time, in place of the run's.
        """
        own, other = self.control.config, copy.copy(self)
        if target != own.target:
            config = replace(own, target=target, also=(), match_target=True)
            other.control = LagrangianControl(config, self.student.config, table or self.control.table)
        return other

    def figures(self, final: FinalMasks) -> dict[str, Any]:
        """Expected values, and the result for each target."""
        return self.control.figures(self.gates, final)

    def log_records(self, draw: MaskDraw, whole: CompactSpec) -> dict[str, Any]:
        """Units kept by the rounding rule alone (the target still rises), and mask averages as in Figure 3a.

        Shares of the CNN's channels and of the positional convolution's groups are those kept by their own masks.
        """
        bare = replace(self.control.config, match_target=False)
        kept = final_masks(self.gates, self.student, bare, self.control.table)
        remaining = remaining_units(kept.spec, whole)
        for kind, slot in (("channels", "z_conv"), ("position_groups", "z_pos")):
            shares = [float((z != 0).float().mean()) for (_, name), z in kept.masks.items() if name == slot]
            if shares:
                remaining[kind] = shares
        return {**self.control.realised(kept), "mask_means": draw.averages(), "remaining": remaining}

    def state(self) -> dict[str, Any]:
        """State with the latency table, since its file may be missing where a checkpoint is exported."""
        table = self.control.table
        return parts_state(self) | ({} if table is None else {"Latency_Table": to_dict(table)})

    def load_state(self, states: dict[str, Any]) -> None:
        """Reverse of `state`.

        Raises:
            UserError: the latency table is not the one that the run was started with.
        """
        table = self.control.table
        if states.get("Latency_Table") != (table and to_dict(table)):
            raise UserError(
                f"{self.control.config.table}: holds other times than when this run was started. Put the old "
                "table back, or start another run (-n NAME)."
            )
        load_parts(self, states)
        self._settled = None
