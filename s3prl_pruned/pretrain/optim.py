"""Three optimisers: weights (AdamW, scheduled), gates (AdamW, constant), multipliers (Adam, ascending).

All are torch's fused versions, which can skip a step by a flag on the device, so that the CPU does not wait for it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from s3prl_pruned.pretrain.config import OptimizerConfig
from s3prl_pruned.pretrain.expert import Expert


class Optimizers:
    """The optimisers of a model. Every trainable parameter is in exactly one group.

    Args:
        weights: weights with learning rate schedule, weight decay and gradient clipping.
        head: weights with a peak learning rate of their own, `config.head_lr`; may be empty.
        gates: log_alpha; may be empty.
        multipliers: multipliers of the Lagrangian, which are maximised; may be empty.
        config: learning rates and AdamW's constants.
        total_steps: length of the schedule.
    """

    def __init__(
        self,
        *,
        weights: list[nn.Parameter],
        head: list[nn.Parameter],
        gates: list[nn.Parameter],
        multipliers: list[nn.Parameter],
        config: OptimizerConfig,
        total_steps: int,
    ):
        self.config = config
        self.total_steps = total_steps
        groups = [{"params": group} for group in (weights, head) if group]
        self._peaks = [config.lr, getattr(config, "head_lr", None) or config.lr][: len(groups)]
        self.weights = torch.optim.AdamW(
            groups,
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.weight_parameters, self._gate_parameters = weights + head, gates
        self._all: list[torch.optim.Optimizer] = [self.weights]
        if gates:
            self._all.append(torch.optim.AdamW(gates, lr=config.gate_lr, weight_decay=0.0, fused=True))
        if multipliers:
            self._all.append(torch.optim.Adam(multipliers, lr=config.multiplier_lr, maximize=True, fused=True))

    def set_step(self, step: int) -> float:
        """Set the weights' learning rates for optimiser step `step` (1-based); returns the one outside the head."""
        factor = self.config.lr_factor(step, self.total_steps)
        for group, peak in zip(self.weights.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        return self.config.lr * factor

    def clip(self, max_norm: float) -> Tensor:
        """Clip the gradient of the weights; returns its norm before clipping, a scalar tensor."""
        return nn.utils.clip_grad_norm_(self.weight_parameters, max_norm)

    def gate_gradient_norm(self) -> Tensor | float:
        """Norm of the gradient of all log_alpha (not clipped)."""
        gradients = [p.grad for p in self._gate_parameters if p.grad is not None]
        return nn.utils.get_total_norm(gradients) if gradients else 0.0

    def step(self, *, unless: Tensor) -> None:
        """Take one step with all optimisers.

        Args:
            unless: a scalar tensor, fp32. If it is 1, nothing changes, including the counts of steps.
        """
        for optimizer in self._all:
            # the attribute that torch's GradScaler sets for fused optimisers
            vars(optimizer)["found_inf"] = unless
            optimizer.step()
            del vars(optimizer)["found_inf"]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for optimizer in self._all:
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """State of each optimiser."""
        return [optimizer.state_dict() for optimizer in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Reverse of `state_dict`; also reads states of versions that had one log_alpha per slot."""
        for optimizer, state in zip(self._all, states, strict=True):
            groups = [{**group, "fused": True, "foreach": None} for group in state["param_groups"]]
            state = {**state, "param_groups": groups}  # settings of the implementation may differ between versions
            one = len(optimizer.param_groups) == len(optimizer.param_groups[0]["params"]) == 1
            optimizer.load_state_dict(_in_one(state) if one else state)


def _in_one(state: dict[str, Any]) -> dict[str, Any]:
    """State of an optimiser of one vector, from a state of its parts in order (or of the vector itself)."""
    (group,), parts = state["param_groups"], state["state"]
    if len(group["params"]) <= 1 or not parts:
        return state
    in_order = [parts[number] for number in group["params"]]
    whole = {
        name: torch.cat([part[name] for part in in_order]) if name.startswith("exp_avg") else value
        for name, value in in_order[0].items()
    }
    return {"state": {0: whole}, "param_groups": [{**group, "params": [0]}]}


def build_optimizers(expert: Expert, config: OptimizerConfig, total_steps: int) -> Optimizers:
    """Sort the trainable parameters of an expert into groups by their module (`head` is that of one-pass pruning)."""
    model = expert.model
    head = [p for name, part in model.named_children() if name == "head" for p in part.parameters()]
    gates = list(model.gates.parameters())
    multipliers = list(model.lagrangian.parameters())
    special = {id(p) for p in head + gates + multipliers}
    weights = [p for p in model.parameters() if p.requires_grad and id(p) not in special]
    grouped = [id(p) for p in weights + head + gates + multipliers]
    assert len(grouped) == len(set(grouped)) == sum(p.requires_grad for p in model.parameters())
    return Optimizers(
        weights=weights, head=head, gates=gates, multipliers=multipliers, config=config, total_steps=total_steps
    )
