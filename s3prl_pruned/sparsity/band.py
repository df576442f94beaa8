"""The band rule on the compression ratio (Xu et al. 2025), in place of the Lagrangian under a task's own loss.

Too large a model: task loss + lambda x size. Too small a one: task loss - lambda x size. Within the band: task loss
alone.
"""

from dataclasses import dataclass, field

from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.sparsity.config import Target, renewed


@dataclass(kw_only=True)
class BandConfig:
    """Where the band lies, and how hard the size pulls."""

    target: Target = field(default_factory=lambda: Target(share=0.72))
    """Middle of the band, of `params`. Their compression ratio is 1 / (1 - share), so that a band of the one is a
    band of the other."""

    tolerance: float = 0.01
    """Half the width of the band, a difference of sparsities. Not in the abstract."""

    size_weight: float = 1.0
    """lambda; size is the share of the prunable weights that stays, 0 to 1. Not in the abstract."""

    renew = staticmethod(renewed)

    @property
    def goal(self) -> float:
        """The target's share, a sparsity."""
        return self.target.share

    def validate(self) -> None:
        """Raise UserError where a value is out of its range."""
        if self.target.of != "params":
            raise UserError(f"`target.of` must be params, but is {self.target.of}: the band is one of sparsities.")
        if not 0 < self.tolerance < 1:
            raise UserError(f"`tolerance` must be in (0, 1), but is {self.tolerance}.")
        if self.size_weight <= 0:
            raise UserError(f"`size_weight` must be positive, but is {self.size_weight}.")

    def penalty(self, sparsity: Tensor) -> Tensor:
        """What is added to the task's loss, a scalar: + lambda x size under the band, - lambda x size over it, else 0.

        Args:
            sparsity: of the model as it stands, a scalar with a gradient to the gates.
        """
        gap = sparsity.detach() - self.goal
        outside = gap.abs() > self.tolerance
        return -gap.sign() * outside * self.size_weight * (1 - sparsity)
