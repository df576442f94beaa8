"""Training with masks that are exactly 0, without a backward pass through the units that they remove.

A unit whose mask is 0 (a closed unit) adds nothing to its layer's output and passes no gradient on; only the mask
itself has one (Wang et al. 2023, eq. 4 lets it through the clamp). So a closed unit's value is computed once, without a
graph, for its mask's gradient, and the open ones are computed as in the smaller network that they form. The gradients
are those of masks multiplied onto activations, and at the target sparsity most of the backward pass is saved
(`benchmarks/step.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from s3prl_pruned.models.linear import LowRankLinear, input_side, is_plain, masked, output_side

SHARE_THAT_PAYS = {"cpu": 0.4}
"""Share of closed units above which splitting saves more than it costs in fp32 (LOG.md), by device.

A device without an entry computes everything: on CUDA splitting made a step slower (390 against 350 ms, H200).
"""


@dataclass(frozen=True)
class Split:
    """Which units of a mask are open and which closed: indices, int64."""

    open: Tensor
    closed: Tensor

    @staticmethod
    def of(z: Tensor | None, *maps: nn.Module) -> "Split | None":
        """The split of masks (N,); None where it would not pay: no masks, no gradients, compiled, or few closed units.

        Args:
            z: masks (N,), or None for none.
            maps: the linear maps into and out of the units. `Split` uses their weights without calling them, so
                None is returned for maps that compute something else when called (`is_plain`).
        """
        if z is None or not _is_trained_with(z) or not all(is_plain(each) for each in maps):
            return None
        is_open = z.detach() != 0
        if int(is_open.sum()) >= (1 - SHARE_THAT_PAYS[z.device.type]) * len(z):
            return None
        return Split(is_open.nonzero().flatten(), is_open.logical_not().nonzero().flatten())

    def outputs(self, projection: nn.Linear | LowRankLinear, x: Tensor) -> Tensor:
        """A linear map whose outputs are the units, (..., D) -> (..., N); gradients pass through the open ones only."""
        x, side = _before_units(projection, x)
        return _OpenOutputs.apply(x, side.weight, side.bias, self.open)

    def output_parts(self, projection: nn.Linear | LowRankLinear, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same in two parts, as `parted` returns them: less work if the order of the units does not matter."""
        x, side = _before_units(projection, x)
        opened = _rows(side, self.open, x)
        with torch.no_grad():
            return opened, _rows(side, self.closed, x)

    def parted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(..., N) -> the open units and the closed, (..., n) each, the closed without a graph."""
        return x.index_select(-1, self.open), x.detach().index_select(-1, self.closed)

    def inputs(self, projection: nn.Linear | LowRankLinear, opened: Tensor, closed: Tensor, z: Tensor) -> Tensor:
        """A linear map whose inputs are the masked units: `projection(units * z)`, (..., D).

        Args:
            projection: the linear map.
            opened: the open units, as `parted` returns them.
            closed: the closed units.
            z: (N,), all masks.
        """
        side = input_side(projection)
        opened = masked(opened, z.index_select(0, self.open))
        y = F.linear(opened, side.weight.index_select(1, self.open), side.bias)
        if z.requires_grad:
            columns = side.weight.detach().index_select(1, self.closed)
            y = _AddClosed.apply(y, z.index_select(0, self.closed), closed.detach(), columns)
        return projection.up(y) if isinstance(projection, LowRankLinear) else y


def gated(sublayer: nn.Module, compute: Callable[..., Tensor], z: Tensor | None, *inputs: Tensor | None) -> Tensor:
    """`compute(*inputs, z)`, masked by a sublayer's own mask z (1,); if z is 0 in training, without its backward pass.

    Its parameters and inputs then get gradients of zero, as from a product with 0, so that an optimiser updates them as
    it otherwise would.
    """
    if z is None or not _is_trained_with(z) or z.detach().any():
        return compute(*inputs, z)
    with torch.no_grad():
        y = compute(*inputs, None)
    behind = [tensor for tensor in (*inputs, *sublayer.parameters()) if tensor is not None and tensor.requires_grad]
    return _ClosedSublayer.apply(y, z, *behind)


def _is_trained_with(z: Tensor) -> bool:
    if z.device.type not in SHARE_THAT_PAYS:
        return False
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _before_units(projection: nn.Linear | LowRankLinear, x: Tensor) -> tuple[Tensor, nn.Linear]:
    return (projection.down(x) if isinstance(projection, LowRankLinear) else x), output_side(projection)


def _rows(side: nn.Linear, index: Tensor, x: Tensor) -> Tensor:
    return F.linear(
        x, side.weight.index_select(0, index), None if side.bias is None else side.bias.index_select(0, index)
    )


class _OpenOutputs(torch.autograd.Function):
    """`F.linear` for outputs of which only those in `index` (n,) have a gradient: (..., D) -> (..., N)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, index)
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, index = ctx.saved_tensors
        grad = grad.index_select(-1, index)  # (..., n)
        rows, frames = grad.flatten(0, -2), x.flatten(0, -2).to(grad.dtype)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = (grad @ weight.index_select(0, index).to(grad.dtype)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = torch.zeros_like(weight).index_copy_(0, index, (rows.T @ frames).to(weight.dtype))
        if ctx.needs_input_grad[2]:
            of_bias = weight.new_zeros(len(weight)).index_copy_(0, index, rows.sum(0).to(weight.dtype))
        return of_x, of_weight, of_bias, None


class _ClosedSublayer(torch.autograd.Function):
    """y (..., D) times z (1,), for z = 0, with the gradient of z, and zero gradients for all that y depends on."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, *behind: Tensor) -> Tensor:
        ctx.save_for_backward(y, z, *behind)
        return masked(y, z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, z, *behind = ctx.saved_tensors
        of_z = (grad * y.to(torch.promote_types(y.dtype, z.dtype))).sum()  # in fp32 for half precision
        return None, of_z.to(z.dtype).view_as(z), *(torch.zeros_like(tensor) for tensor in behind)


class _AddClosed(torch.autograd.Function):
    """y (..., D) + (values (..., n) * z (n,)) @ columns (D, n)^T for z = 0, which is y.

    The gradient of z is (g @ columns * values), summed over frames.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, values: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(values, columns)
        ctx.dtype = z.dtype
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, columns = ctx.saved_tensors
        through = grad @ columns.to(grad.dtype)  # (..., n)
        return grad, (through.to(ctx.dtype) * values).flatten(0, -2).sum(0), None, None
