"""Pruning rounds during training, which remove heads, rows or single weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from s3prl_pruned.compressors.config import CompressConfig
from s3prl_pruned.compressors.heads import l1_scores
from s3prl_pruned.compressors.magnitude import prune_weights, weight_masks
from s3prl_pruned.compressors.plan import Plan, refuse_missed
from s3prl_pruned.compressors.rows import row_scores
from s3prl_pruned.compressors.units import head_costs, row_costs, weakest
from s3prl_pruned.models.compact import surviving_spec
from s3prl_pruned.models.masks import Masks
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.sparsity.counts import prunable_weights, sparsity

IN_ROUNDS = ("heads", "rows", "magnitude")
_SLOTS = {"heads": "z_head", "rows": "z_int"}
_COSTS = {"heads": head_costs, "rows": row_costs}


class Compressor(nn.Module):
    """Carries out a plan on its student.

    Pruned units are masked, so that the optimiser's parameters stay the same: heads and rows by masks of 0 and 1 in the
    encoder's slots (`masks`; buffers here), single weights inside the encoder (`magnitude.py`). `export.masks` finally
    cuts heads and rows away.

    Args:
        plan: from `make_plan`.
        config: which techniques.
    """

    rounds_done: Tensor
    """Number of rounds done, a scalar."""

    def __init__(self, plan: Plan, config: CompressConfig):
        super().__init__()
        self.config, self.plan, spec = config, plan, plan.student.spec
        self._realised: dict[int, float] = {}  # by the number of rounds done
        self.register_buffer("rounds_done", torch.zeros((), dtype=torch.long))
        for technique, units in (
            ("heads", [layer.heads for layer in spec.layers]),
            ("rows", [layer.ffn for layer in spec.layers]),
        ):
            for number, of_layer in enumerate(units):
                if technique in config.techniques and of_layer:
                    self.register_buffer(f"{_SLOTS[technique]}_{number}", torch.ones(len(of_layer)))

    def refuse_coarse(self, tolerance: float) -> None:
        """Check that the last round can reach the planned sparsity.

        Scores of zero serve for that: the sparsity does not depend on which units are pruned.

        Args:
            tolerance: largest difference from the plan's sparsity.

        Raises:
            UserError: heads or layers are too large to come that close.
        """
        started = {name: mask.clone() for name, mask in self.named_buffers()}
        for technique in _SLOTS:
            self._remove(technique, [torch.zeros(len(costs)) for costs in self._costs(technique)], 1.0)
        left = self.plan.goals.get("magnitude", self._left())
        for name, mask in started.items():
            self.get_buffer(name).copy_(mask)
        refuse_missed(sparsity(left, self.plan.student.config), self.plan, tolerance)

    def rounds_before(self, step: int, total_steps: int) -> list[int]:
        """The rounds (0-based) that come before optimiser step `step` (1-based)."""
        if not set(IN_ROUNDS) & set(self.config.techniques):
            return []
        return [number for number in range(self.config.rounds) if self.config.step_of(number, total_steps) == step]

    def needs_data(self) -> bool:
        """Whether a round needs `HeadImportance.scores`."""
        return "heads" in self.config.techniques and self.config.head_scores == "data"

    def prune(self, number: int, head_scores: Callable[[], list[Tensor]]) -> None:
        """Do a round.

        Args:
            number: which round, 0-based.
            head_scores: returns `HeadImportance.scores`; called if `needs_data()`.
        """
        student, techniques, share = self.plan.student, self.config.techniques, (number + 1) / self.config.rounds
        if "heads" in techniques:
            self._remove("heads", head_scores() if self.needs_data() else l1_scores(student), share)
        if "rows" in techniques:
            self._remove("rows", row_scores(student), share)
        if "magnitude" in techniques:
            removes = round(share * (self.plan.begin - self.plan.goals["magnitude"]))
            prune_weights(student, self.plan.begin - removes, self.masks())
        self.rounds_done.fill_(number + 1)
        self._realised.clear()

    def _remove(self, technique: str, scores: list[Tensor], share: float) -> None:
        """Prune heads or rows to their number after this share of the rounds."""
        if technique not in self.config.techniques:
            return
        begin = prunable_weights(self.plan.student.config, self.plan.student.spec)
        wanted = share * (begin - self.plan.goals[technique])
        if technique == "rows":
            wanted -= self._gone("heads")
        buffers = [self._mask(technique, number) for number in range(len(scores))]
        scores = [
            s if z is None else s.masked_fill(z.cpu() == 0, -torch.inf) for s, z in zip(scores, buffers, strict=True)
        ]
        even = technique == "rows" or self.config.head_scores == "l1"
        alive = weakest(scores, self._costs(technique), wanted, even=even, keep=int(technique == "heads"))
        for z, stays in zip(buffers, alive, strict=True):
            if z is not None:
                z.copy_(stays)

    def masks(self) -> Masks:
        """0 and 1 for heads and rows, for the student's slots."""
        slots = [(i, name) for i in range(len(self.plan.student.spec.layers)) for name in _SLOTS.values()]
        buffers = {slot: self._buffers.get(f"{slot[1]}_{slot[0]}") for slot in slots}
        return Masks.of({slot: z for slot, z in buffers.items() if z is not None})

    def surviving_spec(self) -> CompactSpec:
        """The student's structure without the heads and rows pruned so far."""
        return surviving_spec(self.plan.student.spec, self.masks())

    def scheduled_sparsity(self) -> float:
        """The sparsity that the rounds so far had to reach."""
        begin = sparsity(self.plan.begin, self.plan.student.config)
        share = float(self.rounds_done) / self.config.rounds if set(IN_ROUNDS) & set(self.config.techniques) else 0.0
        return begin + share * (self.plan.target - begin)

    def realised_sparsity(self) -> float:
        """Share of the dense encoder's weights that is removed or zero so far."""
        done = int(self.rounds_done)
        if done not in self._realised:
            single = weight_masks(self.plan.student)
            left = sum(int(mask.sum()) for mask in single.values()) if single else self._left()
            self._realised = {done: sparsity(left, self.plan.student.config)}
        return self._realised[done]

    def _left(self) -> int:
        return prunable_weights(self.plan.student.config, self.surviving_spec())

    def _gone(self, technique: str) -> int:
        gone = 0
        for number, costs in enumerate(self._costs(technique)):
            z = self._mask(technique, number)
            gone += 0 if z is None else sum(cost for cost, value in zip(costs, z.tolist(), strict=True) if value == 0)
        return gone

    def _costs(self, technique: str) -> list[list[int]]:
        student = self.plan.student
        return [_COSTS[technique](layer, student.config.embed_dim) for layer in student.spec.layers]

    def _mask(self, technique: str, layer: int) -> Tensor | None:
        return getattr(self, f"{_SLOTS[technique]}_{layer}", None)
