"""The weighted sum of hidden states in front of s3prl's downstream models."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerSum(nn.Module):
    """The weighted sum of hidden states that s3prl's downstream models read; its weights start equal.

    Source: s3prl's `Featurizer`, without normalisation.

    Args:
        num_states: number of hidden states.
    """

    def __init__(self, num_states: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_states))

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """(B, T, D) of `num_states` tensors (B, T, D)."""
        shares = F.softmax(self.weights, dim=-1)
        return torch.stack([share * state for share, state in zip(shares, states, strict=True)]).sum(0)
