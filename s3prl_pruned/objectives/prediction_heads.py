"""Distillation through prediction heads: the last state of the student predicts several layers of the teacher."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_pruned.config import UserError
from s3prl_pruned.objectives.distill import DistillConfig, gather_frames, valid_frames
from s3prl_pruned.objectives.matching import teacher_layers


class PredictionHeads(nn.Module):
    """DistilHuBERT's heads and loss (Chang et al. 2022, section 3 and eq. 1): L1 - log sigmoid(cosine), per frame.

    The student's last state goes through a linear map to D hidden units per target and GELU, both shared by the heads,
    and then through one linear map per target. The heads are only used in training; exports do not contain them.

    Replaces `LayerDistillation`, with fixed pairs (head, last state).
    """

    def __init__(self, *, num_layers: int, embed_dim: int, config: DistillConfig):
        super().__init__()
        if config.num_pairs > num_layers:
            raise UserError(
                f"`num_pairs` must be at most the teacher's {num_layers} layers, but is {config.num_pairs}."
            )
        self.teacher_layers = teacher_layers(num_layers, config.num_pairs)
        self.pairs = [(k, num_layers - 1) for k in range(config.num_pairs)]
        self.shared = nn.Sequential(nn.Linear(embed_dim, config.num_pairs * embed_dim), nn.GELU())
        self.heads = nn.ModuleList(nn.Linear(config.num_pairs * embed_dim, embed_dim) for _ in self.teacher_layers)

    def forward(
        self, student: list[Tensor], teacher: list[Tensor], valid: Tensor, pairs: list[tuple[int, int]]
    ) -> Tensor:
        """Loss of each head, summed over frames (L1: mean over D); the caller divides by the global batch's frames.

        Args:
            student: L + 1 states (B, T, D); only the last is used.
            teacher: L + 1 states (B, T, D).
            valid: (B, T) bool, True on frames that are not padding; on the CPU, so that nothing waits for a GPU.
            pairs: `self.pairs`.

        Returns:
            (heads,) fp32, with a gradient.
        """
        with torch.autocast(student[-1].device.type, enabled=False):
            frames = valid_frames(valid)
            shared = self.shared(gather_frames(student[-1], frames))  # (N, heads x D), N valid frames
            losses = []
            for k, _ in pairs:
                predicted, target = self.heads[k](shared), gather_frames(teacher[self.teacher_layers[k]], frames)
                cosine = F.cosine_similarity(predicted, target, dim=-1)  # (N,)
                losses.append(
                    F.l1_loss(predicted, target, reduction="sum") / target.shape[-1] - F.logsigmoid(cosine).sum()
                )
            return torch.stack(losses)
