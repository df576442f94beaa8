"""Linear maps on hidden states, whose outputs some distilled students publish.

Shapes: see `models/components.py`. They serve inference and fine-tuning; pruning leaves them as they are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_pruned.models.components import Stack
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.state_rule import StateHeads


class LayerMaps(nn.Module):
    """A linear map for each layer, whose output is published in its place (MaskHuBERT, Jang et al. 2023)."""

    def __init__(self, config: EncoderConfig, heads: StateHeads):
        super().__init__()
        self.maps: Stack[nn.Linear] = Stack(nn.Linear(config.embed_dim, heads.dim) for _ in range(config.num_layers))

    def forward(self, layers: list[Tensor], last: Tensor) -> list[Tensor]:
        """The published states, (B, T, dim) each.

        Args:
            layers: L outputs (B, T, D).
            last: not used.
        """
        return [linear(state) for linear, state in zip(self.maps, layers, strict=True)]


class Predictions(nn.Module):
    """Predictions of a teacher's layers from the last state (DistilHuBERT, Chang et al. 2022, section 3).

    One linear map to an inner vector per prediction, GELU, and a linear map of each.
    """

    def __init__(self, config: EncoderConfig, heads: StateHeads):
        super().__init__()
        self.inner = nn.Linear(config.embed_dim, heads.number * heads.inner_dim)
        self.weight = nn.Parameter(torch.empty(heads.number, heads.inner_dim, heads.dim))
        self.bias = nn.Parameter(torch.empty(heads.number, heads.dim))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw new initial weights, as `nn.Linear` does."""
        bound = self.weight.shape[1] ** -0.5
        self.weight.uniform_(-bound, bound)
        self.bias.uniform_(-bound, bound)

    def forward(self, layers: list[Tensor], last: Tensor) -> list[Tensor]:
        """The published states, (B, T, D) each: the layers' outputs, and the predictions.

        Args:
            layers: L outputs (B, T, D).
            last: the encoder's output (B, T, D), normalised in a pre-norm encoder.
        """
        inner = F.gelu(self.inner(last)).unflatten(-1, (len(self.weight), -1))  # (B, T, n, inner)
        return [*layers, *(inner[..., k, :] @ self.weight[k] + self.bias[k] for k in range(len(self.weight)))]


def state_heads(config: EncoderConfig) -> LayerMaps | Predictions | None:
    """The heads that `config.states` asks for; None for none."""
    heads = config.states.heads
    if heads is None:
        return None
    return LayerMaps(config, heads) if heads.kind == "maps" else Predictions(config, heads)
