"""Layer-wise distillation: mean squared error between paired hidden states (Wang et al. 2023, eq. 5)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s3prl_pruned.config import UserError
from s3prl_pruned.objectives.matching import teacher_layers


@dataclass(kw_only=True)
class DistillConfig:
    """What the student learns from the teacher."""

    num_pairs: int = 4
    """Teacher layers to learn from, evenly spread and always including the last (CoFi: 4)."""

    prediction_heads: bool = False
    """DistilHuBERT's objective in place of the matched layers' errors: heads on the student's last state predict the
    teacher's layers (`objectives/prediction_heads.py`). For students compressed by `compress`."""

    def validate(self) -> None:
        if self.num_pairs < 1:
            raise UserError(f"`num_pairs` must be at least 1, but is {self.num_pairs}.")


class LayerDistillation(nn.Module):
    """Errors between paired teacher and student states, through one shared linear map W.

    W maps student states (D,) to teacher states (D,), starts as the identity and is shared by all pairs (CoFi).
    """

    def __init__(self, *, num_layers: int, embed_dim: int, config: DistillConfig):
        super().__init__()
        if config.num_pairs > num_layers:
            raise UserError(f"`num_pairs` must be at most the teacher's {num_layers} layers, but is {config.num_pairs}.")
        self.teacher_layers = teacher_layers(num_layers, config.num_pairs)
        self.projection = nn.Linear(embed_dim, embed_dim, bias=False)
        nn.init.eye_(self.projection.weight)

    @torch.no_grad()
    def errors(self, student: list[Tensor], teacher: list[Tensor], valid: Tensor) -> Tensor:
        """Summed squared errors of every possible pair, for matching; arguments and scale as `forward`.

        Returns:
            (number of pairs, L) fp32: [k, j] is teacher state `teacher_layers[k]` against student state j + 1.
        """
        every = [(k, j) for k in range(len(self.teacher_layers)) for j in range(len(student) - 1)]
        return self._squared_errors(student, teacher, valid, every).view(len(self.teacher_layers), -1)

    def forward(
        self, student: list[Tensor], teacher: list[Tensor], valid: Tensor, pairs: list[tuple[int, int]]
    ) -> Tensor:
        """Summed squared errors of the matched pairs, divided by D.

        Divided by the global batch's valid frames they are the MSEs of eq. 5; the caller divides, because only it
        knows the other micro-batches and ranks.

        Args:
            student: L + 1 states (B, T, D); the first (the input of layer 1) is not used.
            teacher: L + 1 states (B, T, D).
            valid: (B, T) bool, True on frames that are not padding.
            pairs: what `match_layers` gave.

        Returns:
            (len(pairs),) fp32, with a gradient; empty (and summing to 0) when there is no pair.
        """
        return self._squared_errors(student, teacher, valid, pairs)

    def _squared_errors(
        self, student: list[Tensor], teacher: list[Tensor], valid: Tensor, pairs: list[tuple[int, int]]
    ) -> Tensor:
        with torch.autocast(valid.device.type, enabled=False):
            targets = {k: teacher[self.teacher_layers[k]].float()[valid] for k, _ in pairs}  # (N, D), N valid frames
            mapped = {j: self.projection(student[j + 1].float()[valid]) for _, j in pairs}
            errors = [(mapped[j] - targets[k]).square().sum() for k, j in pairs]
            if not errors:  # empty, but differentiable: a step in which no layer exists trains nothing
                return self.projection.weight.flatten()[:0]
            return torch.stack(errors) / self.projection.in_features
