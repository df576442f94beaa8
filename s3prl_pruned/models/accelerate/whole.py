"""The encoder whose attention computes its own rows of the position bias."""

from torch import Tensor

from s3prl_pruned.models.accelerate.paths import path_for
from s3prl_pruned.models.encoder import SpeechEncoder


class FastSpeechEncoder(SpeechEncoder):
    """`SpeechEncoder` without a T x T position bias in memory, if its attention layers use a fast path."""

    def position_bias(self, x: Tensor) -> Tensor | None:
        """As `SpeechEncoder.position_bias`, but (H, 2T - 1) by distance if the attention layers use it so."""
        if self.relative_position is None or path_for(self, x, x.shape[1]) is None:
            return super().position_bias(x)
        return self.relative_position.by_distance(x.shape[1])
