"""Control of a model's size while gates are learned: a Lagrangian, or the band rule."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from s3prl_pruned.export.masks import FinalMasks
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.pretrain.pruners.pruner import Penalty, Step
from s3prl_pruned.sparsity.band import BandConfig
from s3prl_pruned.sparsity.expected import Counted, expected_sparsity
from s3prl_pruned.sparsity.lagrangian import Lagrangian, SparsityConfig
from s3prl_pruned.sparsity.latency import LatencyTable
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


class LagrangianControl:
    """The Lagrangian on the expected reduction of weights, MACs, memory or time, and of the CNN.

    Source: Wang et al. 2023, eq. 5; MACs, memory, time and several targets are ours.

    Args:
        config: targets and schedule.
        shape: the encoder's dense shape.
        table: used instead of the file that the target names.
    """

    def __init__(self, config: SparsityConfig, shape: EncoderConfig, table: LatencyTable | None = None):
        self.config, self.shape = config, shape
        self.measure, self.cnn_measure = measure_of(config, shape, table), cnn_measure_of(config, shape, table)
        self.multipliers = Lagrangian(cnn=self.cnn_measure is not None)

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

    def penalty(self, counted: Counted, step: Step) -> Penalty:
        """Sum of the penalties of all targets; of the target and the further ones, only the least fulfilled counts."""
        target, expected = self._target(step), self.measure.expected_fulfilled(counted)
        value = self.multipliers(expected, target)
        records = self._records(self.measure, expected, target) | {
            "sparsity_penalty": value.detach(),
            "lambda1": self.multipliers.lambda1.detach().clone(),  # before the step
            "lambda2": self.multipliers.lambda2.detach().clone(),
        }
        with torch.no_grad():
            if self.measure.also:
                records |= self._records(self.measure, self.measure.expected(counted), target)
                records["expected_fulfilled"] = expected.detach() / self.config.goal
            if not self.measure.is_sparsity:
                records["expected_sparsity"] = expected_sparsity(counted, self.shape)
        if self.cnn_measure is not None:
            assert self.multipliers.cnn is not None
            target, expected = self._target(step, self.config.cnn_goal), self.cnn_measure.expected(counted)
            value = value + self.multipliers.cnn(expected, target)
            records |= self._records(self.cnn_measure, expected, target)
        return Penalty(value=value, records=records)

    def _target(self, step: Step, goal: float | None = None) -> float:
        return self.config.target_at(step.number, step.total, goal)

    @staticmethod
    def _records(measure: Measure, expected: Tensor, target: float) -> dict[str, float | Tensor]:
        quantity = measure.quantity
        return {
            f"expected_{quantity.name}": quantity.shown(expected.detach()),
            f"target_{quantity.name}": quantity.shown(target),
        }

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
