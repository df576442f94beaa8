"""Linear maps that may be empty, factored, or between masked units."""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear(
    in_features: int, out_features: int, *, rank: int | None = None, bias: bool = True
) -> "nn.Linear | LowRankLinear":
    """`nn.Linear` that may be empty on either side, without torch's warning about it; with a rank, its two factors."""
    if rank is not None:
        return LowRankLinear(in_features, out_features, rank, bias=bias)
    return _whole(in_features, out_features, bias=bias)


def _whole(in_features: int, out_features: int, *, bias: bool = True) -> nn.Linear:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        return nn.Linear(in_features, out_features, bias=bias)


class LowRankLinear(nn.Module):
    """A linear map as two factors: (..., in_features) -> (..., rank) -> (..., out_features)."""

    def __init__(self, in_features: int, out_features: int, rank: int, *, bias: bool = True):
        super().__init__()
        self.down = _whole(in_features, rank, bias=False)
        self.up = _whole(rank, out_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return self.up(self.down(x))


def output_side(module: "nn.Linear | LowRankLinear") -> nn.Linear:
    """The `nn.Linear` whose rows and bias are a linear map's outputs: itself, or the second of its factors."""
    return module.up if isinstance(module, LowRankLinear) else module


def input_side(module: "nn.Linear | LowRankLinear") -> nn.Linear:
    """The `nn.Linear` whose columns are a linear map's inputs: itself, or the first of its factors."""
    return module.down if isinstance(module, LowRankLinear) else module


def is_plain(projection: nn.Module) -> bool:
    """Whether a linear map is of a known type and without hooks (torch's pruning has some).

    Only then can its weights be used without calling it.
    """
    plain = (nn.Linear, LowRankLinear)
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return all(
        type(module) in plain and not any(getattr(module, name) for name in hooks) for module in projection.modules()
    )


def masked(x: Tensor, z: Tensor | None) -> Tensor:
    """`x * z`, (..., N) and (N,) or (1,), in the precision of `x`; where the slot is empty (None), `x` as it is."""
    return x if z is None else (x * z).to(x.dtype)


def masked_linear(
    projection: nn.Linear | LowRankLinear, x: Tensor, *, inputs: Tensor | None = None, outputs: Tensor | None = None
) -> Tensor:
    """`projection(x * inputs) * outputs`, with its bias masked too: (..., in_features) -> (..., out_features).

    The masks are multiplied into the weights, as in the export. So no activation is stored for the gradient of the
    masks, and that gradient is a sum over fp32 weights even if activations are in half precision. With fewer frames
    than the matrix has rows or columns, the activations are smaller and are masked instead.

    Args:
        projection: the linear map.
        x: (..., in_features).
        inputs: (in_features,) masks, or None.
        outputs: (out_features,) or (1,) masks, or None.
    """
    if inputs is None and outputs is None:
        return projection(x)
    few = x.shape[:-1].numel() < max(*input_side(projection).weight.shape, *output_side(projection).weight.shape)
    if few or not is_plain(projection):
        return masked(projection(masked(x, inputs)), outputs)
    if isinstance(projection, LowRankLinear):
        return _with_masked_weight(projection.up, _with_masked_weight(projection.down, x, inputs, None), None, outputs)
    return _with_masked_weight(projection, x, inputs, outputs)


def _with_masked_weight(side: nn.Linear, x: Tensor, inputs: Tensor | None, outputs: Tensor | None) -> Tensor:
    bias = None if side.bias is None else masked(side.bias, outputs)
    rows = None if outputs is None else outputs[:, None]
    # One product with the matrix: a second one would keep the first for its gradient.
    scale = inputs if rows is None or inputs is None else rows.to(side.weight.dtype) * inputs
    return F.linear(x, masked(side.weight, rows if scale is None else scale), bias)


def precision_of(x: Tensor) -> torch.dtype:
    """The dtype in which products of `x` are computed: autocast's if that is on, else its own."""
    kind = x.device.type
    if x.dtype == torch.float64 or kind == "meta" or not torch.is_autocast_enabled(kind):
        return x.dtype
    return torch.get_autocast_dtype(kind)
