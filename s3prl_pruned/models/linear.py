"""Linear maps that may be empty, or factored."""

import warnings

from torch import Tensor, nn


def linear(
    in_features: int, out_features: int, *, rank: int | None = None, bias: bool = True
) -> "nn.Linear | LowRankLinear":
    """`nn.Linear` that may be empty on either side, without torch's warning about it; with a rank, its two factors."""
    if rank is not None:
        return LowRankLinear(in_features, out_features, rank)
    return _whole(in_features, out_features, bias=bias)


def _whole(in_features: int, out_features: int, *, bias: bool = True) -> nn.Linear:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        return nn.Linear(in_features, out_features, bias=bias)


class LowRankLinear(nn.Module):
    """A linear map as two factors: (..., in_features) -> (..., rank) -> (..., out_features)."""

    def __init__(self, in_features: int, out_features: int, rank: int):
        super().__init__()
        self.down = _whole(in_features, rank, bias=False)
        self.up = _whole(rank, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return self.up(self.down(x))


def output_side(module: "nn.Linear | LowRankLinear") -> nn.Linear:
    """The `nn.Linear` whose rows and bias are a linear map's outputs: itself, or the second of its factors."""
    return module.up if isinstance(module, LowRankLinear) else module


def input_side(module: "nn.Linear | LowRankLinear") -> nn.Linear:
    """The `nn.Linear` whose columns are a linear map's inputs: itself, or the first of its factors."""
    return module.down if isinstance(module, LowRankLinear) else module
