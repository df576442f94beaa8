"""Hard concrete masks of units, held at a target by multipliers (Wang et al. 2023)."""

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


class HardConcretePruner:
    """A `Pruner` with gates whose log_alpha are learned.

    Args:
        student: what is trained.
        config: which gates.
        control: the target.
        seed: of the masks.
    """

    def __init__(self, student: SpeechEncoder, config: GateConfig, control: LagrangianControl, *, seed: int):
        self.student, self.control, self.seed = student, control, seed
        self.gates, self.multipliers = GateSet(student.spec, config, student.config), control.multipliers
        self._settled: MaskDraw | None = None

    @property
    def target_sparsity(self) -> float:
        """What the run is to reach, where the target is of the weights."""
        return self.control.target_sparsity

    @property
    def aim(self) -> str:
        """What the run is to reach, in words."""
        return self.control.aim + in_words(self.gates.config.dims_multiple)

    def draw(self, step: Step, losses: Losses | None = None) -> MaskDraw:
        """The masks of a step, a function of the seed and its number; at the end of a run the exported ones."""
        if self.control.config.is_settling(step.number, step.total):
            if self._settled is None:  # the gates are not trained any more, so that a run that goes on finds the same
                self._settled = self.final_draw(self.final_masks())
            return self._settled
        return self.gates.draw(torch.Generator().manual_seed(self.seed * 1_000_003 + step.number))

    def penalty(self, step: Step, draw: MaskDraw) -> Penalty:
        """The Lagrangian of what is expected to go under the gates, whatever was drawn."""
        if self._settled is None:
            return self.control.penalty(self.gates, step)
        with torch.no_grad():
            return replace(self.control.penalty(self.gates, step), value=None)

    def clamp(self) -> None:
        """Keep every log_alpha within its limit."""
        self.gates.clamp()

    def final_masks(self) -> FinalMasks:
        """The deterministic masks of `export.masks.final_masks`."""
        return final_masks(self.gates, self.student, self.control.config, self.control.table)

    def final_draw(self, final: FinalMasks) -> MaskDraw:
        """The soft values of the survivors, without a gradient."""
        return MaskDraw(final.masks.to(self.gates.log_alpha.device), self.student.spec)

    def figures(self, final: FinalMasks) -> dict[str, Any]:
        """What was expected, and what became of each target."""
        return self.control.figures(self.gates, final)

    def log_records(self, draw: MaskDraw, whole: CompactSpec) -> dict[str, Any]:
        """What the bare rounding rule keeps, since the target of the moment is not the run's, and Figure 3a's averages.

        Shares of the CNN's channels and of the positional convolution's groups are those that their own masks keep.
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
        """With the latency table: a checkpoint is exported where its file may not be."""
        table = self.control.table
        return parts_state(self) | ({} if table is None else {"Latency_Table": to_dict(table)})

    def load_state(self, states: dict[str, Any]) -> None:
        """The reverse of `state`.

        Raises:
            UserError: the latency table holds other times than then.
        """
        table = self.control.table
        if states.get("Latency_Table") != (table and to_dict(table)):
            raise UserError(
                f"{self.control.config.table}: holds other times than this run was started with. Put the old "
                "table back, or start another run (-n NAME)."
            )
        load_parts(self, states)
        self._settled = None
