"""Settings under `compress:` in `config_model.yaml`. Defaults: Lin et al. 2024, where their paper or code has them."""

from dataclasses import dataclass
from typing import Literal

from s3prl_pruned.config import UserError

TECHNIQUES = ("layers", "low_rank", "heads", "rows", "magnitude")
"""From coarse to fine. `layers` and `low_rank` are done before training starts, the others in rounds during
training."""


@dataclass(kw_only=True)
class CompressConfig:
    """Which techniques compress the student, in place of gates.

    `sparsity.target` says how far, as for gates.
    """

    techniques: tuple[str, ...]
    """One or more of `TECHNIQUES`, in their order. Several are combined: each works on what those before it left."""

    shares: tuple[float, ...] | None = None
    """How the weights to remove are divided among several techniques, such as [1, 2]. None: in proportion to the most
    that each can remove. The paper's abstract says that a simple combination is better, but not how it divides."""

    rounds: int = 10
    """Number of pruning rounds, with re-training between them; each removes equally many heads, rows or weights. Lin et
    al. fix what a round removes instead (12 heads; 128 rows of each layer; sparsities such as 0.2, 0.4, ...)."""

    last_round: float = 0.5
    """Share of the run's steps after which the last round is done; the first is before the first step. The
    remaining steps re-train."""

    head_scores: Literal["data", "l1"] = "data"
    """Scores by which heads are pruned: `data`, |gradient x context|, compared over all layers; `l1`, the norm of their
    weights, with equally many heads pruned in each layer."""

    data_share: float = 0.25
    """Share of an epoch on which `head_scores: data` are computed before each round (Lin et al.: 25 %)."""

    ranks: Literal["energy", "budget"] = "energy"
    """How ranks are chosen for a rate. `energy`: all linear maps keep the same share of their squared singular values,
    chosen to meet the rate. `budget`: all keep the same share of their weights."""

    energy: float | None = None
    """The share for `ranks: energy`, set directly; it determines the rate, and `sparsity.target` is ignored."""

    def validate(self) -> None:
        """Raise UserError for settings that cannot be carried out."""
        places = [TECHNIQUES.index(name) for name in self.techniques if name in TECHNIQUES]
        if not places or len(places) < len(self.techniques) or sorted(set(places)) != places:
            raise UserError(
                f"`techniques` must be some of {list(TECHNIQUES)} in this order, but is {list(self.techniques)}."
            )
        if self.shares is not None and (len(self.shares) != len(places) or min(self.shares) <= 0):
            raise UserError(
                f"`shares` must be a positive number for each of {list(self.techniques)}, but is {list(self.shares)}."
            )
        if self.rounds < 1:
            raise UserError(f"`rounds` must be at least 1, but is {self.rounds}.")
        if not 0 <= self.last_round < 1:
            raise UserError(f"`last_round` must be in [0, 1), but is {self.last_round}.")
        if not 0 < self.data_share <= 1:
            raise UserError(f"`data_share` must be in (0, 1], but is {self.data_share}.")
        if self.energy is not None and not 0 < self.energy < 1:
            raise UserError(f"`energy` must be in (0, 1), but is {self.energy}.")
        if self.energy is not None and (self.techniques != ("low_rank",) or self.ranks != "energy"):
            raise UserError(
                "`energy` needs `techniques: [low_rank]` and `ranks: energy`. Leave it out, or change these."
            )

    def step_of(self, number: int, total_steps: int) -> int:
        """The optimiser step (1-based) before which round `number` (0-based) is done."""
        return (
            1 + round(number / max(1, self.rounds - 1) * self.last_round * (total_steps - 1)) if self.rounds > 1 else 1
        )
