"""Row pruning: scores of the intermediate dimensions of feed-forwards (Lin et al. 2024).

As in the paper's code (nervjack2/Speech-SSL-Compression, `row_pruning/rp_utils.py`).
"""

import torch
from torch import Tensor

from s3prl_pruned.compressors.units import matrix
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.linear import output_side


@torch.no_grad()
def row_scores(encoder: SpeechEncoder) -> list[Tensor]:
    """|fc1's row| + |its bias| + |fc2's column|, L1, of each intermediate dimension: per layer (dims,)."""
    scores = []
    for layer in encoder.layers:
        feed_forward = layer.feed_forward
        if feed_forward is None or not feed_forward.num_dims:
            scores.append(torch.zeros(0))
            continue
        fc1, fc2 = feed_forward.fc1, feed_forward.fc2
        scores.append((matrix(fc1).abs().sum(1) + output_side(fc1).bias.abs() + matrix(fc2).abs().sum(0)).cpu())
    return scores
