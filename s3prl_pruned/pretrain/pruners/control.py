"""What holds a model's size at its target while gates are learned: a Lagrangian, or the band rule."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from s3prl_pruned.export.masks import FinalMasks
from s3prl_pruned.models.spec import EncoderConfig
from s3prl_pruned.pretrain.pruners.pruner import Penalty, Step
from s3prl_pruned.sparsity.band import BandConfig
from s3prl_pruned.sparsity.expected import Counted, expected_sparsity
from s3prl_pruned.sparsity.lagrangian import Lagrangian, SparsityConfig
from s3prl_pruned.sparsity.latency import LatencyTable
from s3prl_pruned.sparsity.targets import Measure, cnn_measure_of, measure_of


class SizeControl(Protocol):
    """A target, and what is paid for missing it."""

    @property
    def multipliers(self) -> nn.Module:
        """Trained by ascent."""
        ...

    @property
    def target_sparsity(self) -> float:
        """What the run is to reach."""
        ...

    @property
    def aim(self) -> str:
        """What the run is to reach, in words."""
        ...

    def penalty(self, counted: Counted, step: Step) -> Penalty:
        """What a step pays for the size of the model, with a gradient to what it depends on and to the multipliers.

        Args:
            counted: which units stay, with which probability: the size is counted of them.
            step: which.
        """
        ...

    def realised(self, final: FinalMasks) -> dict[str, float]:
        """`realised_sparsity`, and that of what else the target is of."""
        ...


class LagrangianControl:
    """The Lagrangian on what is expected to go: weights, MACs or time; and of the CNN apart (Wang et al. 2023, eq. 5).

    Args:
        config: the target.
        shape: the encoder's dense shape.
        table: in place of the file that the target names.
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
        """What the run is to reach, where the target is of the weights."""
        return self.config.goal

    @property
    def aim(self) -> str:
        """In words."""
        return self.config.aim

    def penalty(self, counted: Counted, step: Step) -> Penalty:
        """The sum of the targets' penalties."""
        value, records = self._held(self.measure, self.multipliers, counted, self._target(step))
        records |= {
            "sparsity_penalty": value.detach(),
            "lambda1": self.multipliers.lambda1.detach().clone(),  # before the step
            "lambda2": self.multipliers.lambda2.detach().clone(),
        }
        if self.cnn_measure is not None:
            assert self.multipliers.cnn is not None
            target = self._target(step, self.config.cnn_goal)
            of_cnn, more = self._held(self.cnn_measure, self.multipliers.cnn, counted, target)
            value, records = value + of_cnn, records | more
        if not self.measure.is_sparsity:
            with torch.no_grad():
                records["expected_sparsity"] = expected_sparsity(counted, self.shape)
        return Penalty(value=value, records=records)

    def _target(self, step: Step, goal: float | None = None) -> float:
        return self.config.target_at(step.number, step.total, goal)

    @staticmethod
    def _held(
        measure: Measure, lagrangian: Lagrangian, counted: Counted, target: float
    ) -> tuple[Tensor, dict[str, float | Tensor]]:
        expected, quantity = measure.expected(counted), measure.quantity
        records: dict[str, float | Tensor] = {
            f"expected_{quantity.name}": quantity.shown(expected.detach()),
            f"target_{quantity.name}": quantity.shown(target),
        }
        return lagrangian(expected, target), records

    def realised(self, final: FinalMasks) -> dict[str, float]:
        """`realised_sparsity`, and `realised_macs` or `realised_speedup` where that is the target."""
        quantity = self.measure.quantity
        return {"realised_sparsity": final.sparsity, f"realised_{quantity.name}": quantity.shown(final.reached)}

    def figures(self, counted: Counted, final: FinalMasks) -> dict[str, Any]:
        """What a card says: the sparsity that was `expected`, and what became of other targets.

        Those are `macs` or `speedup` (`target`, of the sparsity, is None then) and `cnn`.
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
        if measure.is_sparsity:
            return figures
        of = measure.figures(target=config.goal, gates=counted, realised=final.reached)
        return {**figures, "target": None, measure.quantity.name: of}


class BandControl:
    """The band rule on the sparsity (Xu et al. 2025).

    Args:
        config: the band.
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
        """In words."""
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
        """`realised_sparsity`."""
        return {"realised_sparsity": final.sparsity}
