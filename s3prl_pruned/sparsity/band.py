"""The band rule on the compression ratio (Xu et al. 2025), in place of the Lagrangian where a task's own loss is trained.

Too large a model: task loss + lambda x size. Too small a one: task loss - lambda x size. Within the band: task loss alone.
"""

from dataclasses import dataclass

from torch import Tensor

from s3prl_pruned.config import UserError


@dataclass(kw_only=True)
class BandConfig:
    """Where the band lies, and how hard the size pulls."""

    target_sparsity: float = 0.72
    """Middle of the band, in [0, 1): share of the prunable weights that goes (`sparsity.counts.sparsity`). The compression
    ratio of these weights is 1 / (1 - sparsity), so that a band of the one is a band of the other."""

    tolerance: float = 0.01
    """Half the width of the band, a difference of sparsities. Not in the abstract."""

    size_weight: float = 1.0
    """lambda; size is the share of the prunable weights that stays, 0 to 1. Not in the abstract."""

    def validate(self) -> None:
        if not 0 <= self.target_sparsity < 1:
            raise UserError(f"`target_sparsity` must be in [0, 1), but is {self.target_sparsity}.")
        if not 0 < self.tolerance < 1:
            raise UserError(f"`tolerance` must be in (0, 1), but is {self.tolerance}.")
        if self.size_weight <= 0:
            raise UserError(f"`size_weight` must be positive, but is {self.size_weight}.")

    def penalty(self, sparsity: Tensor) -> Tensor:
        """What is added to the task's loss, a scalar: + lambda x size under the band, - lambda x size over it, else 0.

        Args:
            sparsity: of the model as it stands, a scalar with a gradient to the gates.
        """
        gap = float(sparsity.detach()) - self.target_sparsity
        sign = 0 if abs(gap) <= self.tolerance else -1 if gap > 0 else 1
        return sign * self.size_weight * (1 - sparsity)
