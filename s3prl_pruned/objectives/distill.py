"""Layer-wise distillation: errors between paired hidden states (Wang et al. 2023, eq. 5, and variants of others)."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_pruned.config import UserError
from s3prl_pruned.objectives.matching import fixed_states, teacher_layers
from s3prl_pruned.transfers import to_device


@dataclass(kw_only=True)
class DistillConfig:
    """Distillation loss."""

    num_pairs: int = 4
    """Number of teacher layers to learn from, evenly spread and always including the last (CoFi: 4)."""

    clusters: tuple[tuple[int, ...], ...] | None = None
    """Clusters of teacher states to learn from instead of single layers, such as [[1, 2, 3], [4, 5, 6], [7, 8, 9, 10],
    [11, 12]] for 12 layers: the target of a cluster is the mean of its states (Zampierin et al. 2024, SKILL). None:
    single layers, by `num_pairs`. `benchmarks/layer_clusters.py` finds the clusters of a teacher."""

    pairing: Literal["learned", "fixed"] = "learned"
    """`learned`: each teacher layer is paired with the nearest existing student layer, through one shared map (CoFi,
    the paper). `fixed`: each teacher state is paired with the student state of the same number, including the input of
    layer 1 (0, 4, 8, 12 of 12), through two maps with biases, one for state 0 and one for the others (DPHuBERT, its
    `run.sh`; its state 0 is taken before the positional convolution, ours after it, as in s3prl)."""

    loss: Literal["mse", "l1_cosine"] = "mse"
    """Error of a pair, a mean over frames. `mse`: mean squared error over dimensions (the paper). `l1_cosine`: mean
    absolute error over dimensions, plus a term of the cosine similarity, see `cosine` (DistilHuBERT, DPHuBERT)."""

    l1_weight: float = 1.0
    """Weight of the absolute error in `l1_cosine` (DistilHuBERT, DPHuBERT: 1)."""

    cosine_weight: float = 1.0
    """Weight of the cosine term in `l1_cosine` (DistilHuBERT, DPHuBERT: 1)."""

    cosine: Literal["log_sigmoid", "raw"] = "log_sigmoid"
    """The term of a cosine similarity c: -log sigmoid(c) (Chang et al. 2022, DistilHuBERT, eq. 1) or -c (DPHuBERT's
    `run.sh`)."""

    prediction_heads: bool = False
    """Use DistilHuBERT's objective instead of errors of matched layers: heads on the student's last state predict the
    teacher's layers (`objectives/prediction_heads.py`). For students that `compress` makes."""

    def validate(self) -> None:
        """Raise UserError if a number is out of range, or if no loss is left."""
        if self.num_pairs < 1:
            raise UserError(f"`num_pairs` must be at least 1, but is {self.num_pairs}.")
        for name in ("l1_weight", "cosine_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"`{name}` must be at least 0, but is {getattr(self, name)}.")
        states = [state for cluster in self.clusters or () for state in cluster]
        if self.clusters is not None and not (
            all(self.clusters) and self.clusters and states == sorted(set(states)) and states[0] >= 0
        ):
            raise UserError(
                "`clusters` must be lists of teacher states, each state once, in ascending order, but is "
                f"{self.clusters}."
            )
        if self.clusters is not None and self.prediction_heads:
            raise UserError(
                "`clusters` is for matched layers, but `prediction_heads` replaces these. Leave one of them out."
            )
        if self.l1_weight == self.cosine_weight == 0:
            raise UserError("`l1_weight` and `cosine_weight` are both 0, which leaves no loss. Set one above 0.")


class LayerDistillation(nn.Module):
    """Errors between paired teacher and student states, through linear maps that start as the identity.

    Learned pairs share one map W from student states (D,) to teacher states (D,) (CoFi). Fixed pairs have two maps,
    with biases.

    Attributes:
        clusters: ascending teacher states to learn from; a target is the mean over the states of a cluster.
        teacher_layers: last state of each cluster, used as its name.
        pairs: fixed pairs, in the form of `match_layers`; None if pairs are learned.
    """

    def __init__(self, *, num_layers: int, embed_dim: int, config: DistillConfig):
        super().__init__()
        if config.clusters is None and config.num_pairs > num_layers:
            raise UserError(
                f"`num_pairs` must be at most the teacher's {num_layers} layers, but is {config.num_pairs}."
            )
        self.config, fixed = config, config.pairing == "fixed"
        single = fixed_states if fixed else teacher_layers
        self.clusters = config.clusters or tuple((state,) for state in single(num_layers, config.num_pairs))
        self.teacher_layers = [cluster[-1] for cluster in self.clusters]
        if self.teacher_layers[-1] > num_layers:
            raise UserError(f"`clusters` must hold the teacher's states 0 to {num_layers}, but is {self.clusters}.")
        self.pairs = [(k, state - 1) for k, state in enumerate(self.teacher_layers)] if fixed else None
        self.projection = _identity(embed_dim, bias=fixed)
        self.input_projection = _identity(embed_dim, bias=True) if fixed and self.teacher_layers[0] == 0 else None

    @torch.no_grad()
    def errors(self, student: list[Tensor], teacher: list[Tensor], valid: Tensor) -> Tensor:
        """Summed errors of every possible pair, for matching; arguments and scale as in `forward`.

        Returns:
            (number of pairs, L) fp32: [k, j] is the error of teacher state `teacher_layers[k]` and student state j + 1.
        """
        every = [(k, j) for k in range(len(self.teacher_layers)) for j in range(len(student) - 1)]
        return self._errors(student, teacher, valid, every).view(len(self.teacher_layers), -1)

    def forward(
        self, student: list[Tensor], teacher: list[Tensor], valid: Tensor, pairs: list[tuple[int, int]]
    ) -> Tensor:
        """Errors of the pairs, summed over frames (squared and absolute errors are means over D).

        Divided by the number of valid frames in the global batch, they are the MSEs of eq. 5 (or means of the other
        error). The caller divides, because only it knows the other micro-batches and ranks.

        Args:
            student: L + 1 states (B, T, D); learned pairs do not use the first (the input of layer 1).
            teacher: L + 1 states (B, T, D).
            valid: (B, T) bool, True on frames that are not padding; on the CPU, so that nothing waits for a GPU.
            pairs: result of `match_layers`, or the fixed `self.pairs`.

        Returns:
            (len(pairs),) fp32, with a gradient; empty (with sum 0) if there are no pairs.
        """
        return self._errors(student, teacher, valid, pairs)

    def _errors(
        self, student: list[Tensor], teacher: list[Tensor], valid: Tensor, pairs: list[tuple[int, int]]
    ) -> Tensor:
        if not pairs:  # empty, but differentiable, for a step in which no layer exists
            return self.projection.weight.flatten()[:0]
        errors: dict[tuple[int, int], Tensor] = {}
        with torch.autocast(student[0].device.type, enabled=False):
            frames = valid_frames(valid)
            targets = {k: self._target(teacher, k, frames) for k in {k for k, _ in pairs}}
            for j in {j for _, j in pairs}:  # without gradients, only one mapped state is in memory at a time
                mapped = self._map(j)(gather_frames(student[j + 1], frames))  # (N, D)
                errors |= {(k, j): self._error(mapped, targets[k]) for k, other in pairs if other == j}
            return torch.stack([errors[pair] for pair in pairs]) / self.projection.in_features

    def _target(self, teacher: list[Tensor], k: int, frames: Tensor) -> Tensor:
        """Target of cluster `k` at these frames: (N, D)."""
        first, *others = (gather_frames(teacher[state], frames) for state in self.clusters[k])
        return torch.stack((first, *others)).mean(0) if others else first

    def _map(self, j: int) -> nn.Linear:
        return self.projection if j >= 0 or self.input_projection is None else self.input_projection

    def _error(self, mapped: Tensor, target: Tensor) -> Tensor:
        """Error of (N, D) against (N, D), summed over frames, times D: a scalar."""
        if self.config.loss == "mse":
            return (mapped - target).square().sum()
        cosine = F.cosine_similarity(mapped, target, dim=-1)  # (N,)
        angle = -F.logsigmoid(cosine) if self.config.cosine == "log_sigmoid" else -cosine
        absolute = (mapped - target).abs().sum()
        return self.config.l1_weight * absolute + self.config.cosine_weight * target.shape[1] * angle.sum()


def valid_frames(valid: Tensor) -> Tensor:
    """Flat indices of the frames that are not padding: (B, T) bool -> (N,) int64."""
    return valid.flatten().nonzero().squeeze(1)


def gather_frames(state: Tensor, frames: Tensor) -> Tensor:
    """Select the given frames of (B, T, D) as (N, D) fp32; no copy if all are selected and the state is fp32."""
    flat = state.flatten(0, 1)
    return (flat if len(frames) == len(flat) else flat.index_select(0, to_device(frames, flat.device))).float()


def _identity(size: int, *, bias: bool) -> nn.Linear:
    linear = nn.Linear(size, size, bias=bias)
    nn.init.eye_(linear.weight)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear
