"""The band rule on the compression ratio (Xu et al. 2025), used in place of the Lagrangian with a task loss.

A model that is too large has the loss: task loss + lambda x size; one that is too small: task loss - lambda x size.
Within the band, the task loss is used alone.
"""

from dataclasses import dataclass, field

from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.sparsity.config import Target, renewed


@dataclass(kw_only=True)
class BandConfig:
    """Position and width of the band, and the weight of the size term."""

    target: Target = field(default_factory=lambda: Target(share=0.72))
    """Middle of the band, a sparsity (`of: params`). The compression ratio is 1 / (1 - share), so a band of sparsities
    is also a band of compression ratios."""

    tolerance: float = 0.01
    """Half the width of the band, a difference of sparsities. The paper's abstract does not give it."""

    size_weight: float = 1.0
    """lambda. The size is the kept share of the prunable weights, 0 to 1. The paper's abstract does not give lambda."""

    renew = staticmethod(renewed)

    @property
    def goal(self) -> float:
        """Target sparsity, in [0, 1)."""
        return self.target.share

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        if self.target.of != "params":
            raise UserError(f"`target.of` must be params, but is {self.target.of} (the band is of sparsities).")
        if not 0 < self.tolerance < 1:
            raise UserError(f"`tolerance` must be in (0, 1), but is {self.tolerance}.")
        if self.size_weight <= 0:
            raise UserError(f"`size_weight` must be positive, but is {self.size_weight}.")

    def penalty(self, sparsity: Tensor) -> Tensor:
        """The term added to the task loss, a scalar: + lambda x size below the band, - lambda x size above it, else 0.

        Args:
            sparsity: current sparsity of the model, a scalar with a gradient to the gates.
        """
        gap = sparsity.detach() - self.goal
        outside = gap.abs() > self.tolerance
        return -gap.sign() * outside * self.size_weight * (1 - sparsity)
