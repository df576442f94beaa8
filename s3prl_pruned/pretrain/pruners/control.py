"""Control of a model's size while gates are learned: a Lagrangian, a shift of all gates, or the band rule."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from s3prl_pruned.export.masks import FinalMasks
from s3prl_pruned.gates.attach import GateSet
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.pretrain.pruners.pruner import Penalty, Step
from s3prl_pruned.sparsity.band import BandConfig
from s3prl_pruned.sparsity.expected import Counted, expected_sparsity
from s3prl_pruned.sparsity.lagrangian import Lagrangian, SparsityConfig
from s3prl_pruned.sparsity.latency import LatencyTable
from s3prl_pruned.sparsity.shift import shift_to_target
from s3prl_pruned.sparsity.targets import Measure, cnn_measure_of, measure_of


class SizeControl(Protocol):
    """A target, and a penalty for missing it."""

    @property
    def multipliers(self) -> nn.Module:
        """Multipliers, trained by gradient ascent."""
        ...

    @property
    def target_sparsity(self) -> float:
        """Target sparsity of the run."""
        ...

    @property
    def aim(self) -> str:
        """Target of the run, in words."""
        ...

    def penalty(self, counted: Counted, step: Step) -> Penalty:
        """Penalty of a step for the size of the model, with a gradient to the counted units and the multipliers.

        Args:
            counted: kept units or their probabilities, from which the size is computed.
            step: the optimiser step.
        """
        ...

    def realised(self, final: FinalMasks) -> dict[str, float]:
        """`realised_sparsity`, and the same for the target's quantity if it is another."""
        ...


@dataclass(frozen=True)
class _Expected:
    """The expected share of a target at a step."""

    measure: Measure
    share: Tensor
    target: float


class ExpectedControl:
    """A target for the expected reduction of weights, MACs, memory or time, and of the CNN.

    Args:
        config: targets and schedule.
        shape: the encoder's dense shape.
        table: used instead of the file that the target names.
    """

    multipliers: nn.Module

    def __init__(self, config: SparsityConfig, shape: EncoderConfig, table: LatencyTable | None = None):
        self.config, self.shape = config, shape
        self.measure, self.cnn_measure = measure_of(config, shape, table), cnn_measure_of(config, shape, table)

    @property
    def table(self) -> LatencyTable | None:
        """The latency table in use."""
        return self.measure.table if self.cnn_measure is None else self.measure.table or self.cnn_measure.table

    @property
    def target_sparsity(self) -> float:
        """Target sparsity of the run, if its target is of weights."""
        return self.config.goal

    @property
    def aim(self) -> str:
        """Target of the run, in words."""
        return self.config.aim

    def before_draw(self, gates: GateSet, step: Step) -> None:
        """Change gates before the masks of a step are drawn."""

    def penalty(self, counted: Counted, step: Step) -> Penalty:
        """Penalty of a step, as `SizeControl`."""
        raise NotImplementedError

    def _expected(self, counted: Counted, step: Step) -> list[_Expected]:
        """The expected share of the target (of several, as `Measure.expected_fulfilled`) and of the CNN's, if any."""
        target = self.config.target_at(step.number, step.total)
        found = [_Expected(self.measure, self.measure.expected_fulfilled(counted), target)]
        if self.cnn_measure is not None:
            target = self.config.target_at(step.number, step.total, self.config.cnn_goal)
            found.append(_Expected(self.cnn_measure, self.cnn_measure.expected(counted), target))
        return found

    def _records(self, counted: Counted, found: list[_Expected]) -> dict[str, float | Tensor]:
        """Expected and wanted values of all targets, and the expected sparsity."""
        records: dict[str, float | Tensor] = {}
        for of in found:
            quantity = of.measure.quantity
            records[f"expected_{quantity.name}"] = quantity.shown(of.share.detach())
            records[f"target_{quantity.name}"] = quantity.shown(of.target)
        with torch.no_grad():
            if self.measure.also:
                records["expected_fulfilled"] = found[0].share.detach() / self.config.goal
                own = self.measure.expected(counted)
                records[f"expected_{self.measure.quantity.name}"] = self.measure.quantity.shown(own)
            if not self.measure.is_sparsity:
                records["expected_sparsity"] = expected_sparsity(counted, self.shape)
        return records

    def realised(self, final: FinalMasks) -> dict[str, float]:
        """`realised_sparsity`, and, for another target, such as `realised_macs`."""
        quantity = self.measure.quantity
        return {"realised_sparsity": final.sparsity, f"realised_{quantity.name}": quantity.shown(final.reached)}

    def figures(self, counted: Counted, final: FinalMasks) -> dict[str, Any]:
        """Entries of a card: the expected sparsity, and the results for other targets.

        These are `macs`, `memory` or `speedup` (then `target`, of the sparsity, is None), `cnn`, and `also`, a list
        for the further targets.
        """
        config, measure, cnn = self.config, self.measure, self.cnn_measure
        figures: dict[str, Any] = {"expected": float(expected_sparsity(counted, self.shape).detach())}
        if cnn is not None:
            figures[cnn.quantity.name] = cnn.figures(
                target=config.cnn_goal,
                gates=counted,
                realised=cnn.of(final.spec),
                shift_of_channel_gates=final.cnn_shift,
            )
        if measure.also:
            figures["also"] = [
                {
                    "quantity": other.quantity.name,
                    **other.figures(target=target.share, gates=counted, realised=other.of(final.spec)),
                }
                for (other, _), target in zip(measure.also, config.also, strict=True)
            ]
        if measure.is_sparsity:
            return figures
        of = measure.figures(target=config.goal, gates=counted, realised=final.reached)
        return {**figures, "target": None, measure.quantity.name: of}


class LagrangianControl(ExpectedControl):
    """The Lagrangian on the expected reduction (Wang et al. 2023, eq. 5). Arguments: as `ExpectedControl`."""

    multipliers: Lagrangian

    def __init__(self, config: SparsityConfig, shape: EncoderConfig, table: LatencyTable | None = None):
        super().__init__(config, shape, table)
        self.multipliers = Lagrangian(cnn=self.cnn_measure is not None)

    def penalty(self, counted: Counted, step: Step) -> Penalty:
        """Sum of the penalties of all targets."""
        found = self._expected(counted, step)
        values = [
            lagrangian(of.share, of.target)
            for lagrangian, of in zip((self.multipliers, self.multipliers.cnn), found, strict=False)
            if lagrangian is not None
        ]
        records = self._records(counted, found) | {
            "sparsity_penalty": values[0].detach(),
            "lambda1": self.multipliers.lambda1.detach().clone(),  # before the step
            "lambda2": self.multipliers.lambda2.detach().clone(),
        }
        return Penalty(value=torch.stack(values).sum(), records=records)


class ShiftControl(ExpectedControl):
    """The expected reduction is the target at every step (`sparsity/shift.py`). Arguments: as `ExpectedControl`."""

    def __init__(self, config: SparsityConfig, shape: EncoderConfig, table: LatencyTable | None = None):
        super().__init__(config, shape, table)
        self.multipliers = nn.Module()

    def before_draw(self, gates: GateSet, step: Step) -> None:
        """Shift the gates to the step's targets: those of channels to the CNN's, if it has one."""
        cnn, config = self.cnn_measure, self.config
        if cnn is not None:
            goal = config.target_at(step.number, step.total, config.cnn_goal)
            shift_to_target(gates, cnn, goal, channels=True)
        goal = config.target_at(step.number, step.total)
        shift_to_target(gates, self.measure, goal, channels=None if cnn is None else False)

    def penalty(self, counted: Counted, step: Step) -> Penalty:
        """No penalty; the expected shares are recorded."""
        with torch.no_grad():
            return Penalty(records=self._records(counted, self._expected(counted, step)))


def control_of(config: SparsityConfig, shape: EncoderConfig, table: LatencyTable | None = None) -> ExpectedControl:
    """The control that `config.control` names. Arguments: as `ExpectedControl`."""
    kinds = {"lagrangian": LagrangianControl, "shift": ShiftControl}
    return kinds[config.control](config, shape, table)


class BandControl:
    """The band rule on the sparsity (Xu et al. 2025).

    Args:
        config: position and width of the band.
        shape: the encoder's dense shape.
    """

    def __init__(self, config: BandConfig, shape: EncoderConfig):
        self.config, self.shape = config, shape
        self.multipliers = nn.Module()

    @property
    def target_sparsity(self) -> float:
        """The middle of the band."""
        return self.config.goal

    @property
    def aim(self) -> str:
        """Target of the run, in words."""
        return f"target sparsity {self.target_sparsity:.4g} +- {self.config.tolerance:g}"

    def penalty(self, counted: Counted, step: Step) -> Penalty:
        """`BandConfig.penalty` of the sparsity."""
        sparsity = expected_sparsity(counted, self.shape)
        value = self.config.penalty(sparsity)
        records: dict[str, float | Tensor] = {
            "size_penalty": value.detach(),
            "expected_sparsity": sparsity.detach(),
            "target_sparsity": self.target_sparsity,
        }
        return Penalty(value=value, records=records)

    def realised(self, final: FinalMasks) -> dict[str, float]:
        """The entry `realised_sparsity`."""
        return {"realised_sparsity": final.sparsity}
