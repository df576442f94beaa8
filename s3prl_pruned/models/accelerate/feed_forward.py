"""The feed-forward without the cost of closed units in training, and with less memory in inference."""

import torch.nn.functional as F
from torch import Tensor

from s3prl_pruned.models.accelerate.closed_units import Split, gated
from s3prl_pruned.models.accelerate.cnn import gelu_
from s3prl_pruned.models.accelerate.paths import path_for
from s3prl_pruned.models.components import FeedForward
from s3prl_pruned.models.linear import masked


class FastFeedForward(FeedForward):
    """`FeedForward`: in inference with GELU in place, in training without the closed units' gradients."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return gated(self, self.transform, self.z_ffn, x)

    def transform(self, x: Tensor, z_ffn: Tensor | None) -> Tensor:
        """As `FeedForward.transform`."""
        split = Split.of(self.z_int, self.fc1, self.fc2)
        if split is not None and self.z_int is not None:
            opened, closed = (self.activation_dropout(F.gelu(part)) for part in split.output_parts(self.fc1, x))
            return masked(split.inputs(self.fc2, opened, closed, self.z_int), z_ffn)
        if self.z_int is None and path_for(self, x, x.shape[1]) is not None:
            return masked(self.fc2(gelu_(self.fc1(x))), z_ffn)
        return super().transform(x, z_ffn)
