"""Self-attention whose heads may keep different numbers of query/key and value/output dimensions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3prl_pruned.models.components import masked
from s3prl_pruned.models.linear import linear
from s3prl_pruned.models.spec import EncoderConfig, HeadSpec, Ranks


def padded_width(sizes: list[int]) -> int:
    """Dimensions that each head of a layer is padded to, so that one call serves heads of different sizes."""
    return max([1, *sizes])


class Indices(nn.Module):
    """A constant vector of indices that follows its model's device and is not saved with the weights."""

    def __init__(self, values: list[int]):
        super().__init__()
        self.values = list(values)
        self.index: Tensor
        self.register_buffer("index", torch.tensor(self.values, dtype=torch.long), persistent=False)

    def reset(self) -> None:
        """Fill it anew: a loader that builds models without memory (transformers') leaves it empty."""
        self.index = torch.tensor(self.values, dtype=torch.long, device=self.index.device)

    def forward(self) -> Tensor:
        """(N,) int64."""
        return self.index


class RaggedHeads(nn.Module):
    """Between flat dimensions (B, T, sum of sizes) and heads padded with zeros (B, H, T, largest size).

    Zeros change nothing: a zero query/key dimension adds nothing to a score, and the padded value dimensions are
    left out again by `merge`.
    """

    def __init__(self, sizes: list[int]):
        super().__init__()
        self.sizes = sizes
        self.width = padded_width(sizes)
        self.even = all(size == self.width for size in sizes)
        total, gather = sum(sizes), []
        for head, size in enumerate(sizes):
            start = sum(sizes[:head])
            # index `total` is an appended column of zeros
            gather += [*range(start, start + size), *[total] * (self.width - size)]
        keep = [position for position, source in enumerate(gather) if source < total]
        self.gather, self.keep = Indices(gather), Indices(keep)
        self.head_of = Indices([head for head, size in enumerate(sizes) for _ in range(size)])

    def split(self, x: Tensor) -> Tensor:
        """(B, T, sum of sizes) -> (B, H, T, width)."""
        if not self.even:
            x = F.pad(x, (0, 1)).index_select(-1, self.gather())
        return x.unflatten(-1, (len(self.sizes), self.width)).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        """(B, H, T, width) -> (B, T, sum of sizes)."""
        x = x.transpose(1, 2).flatten(2)
        return x if self.even else x.index_select(-1, self.keep())

    def spread(self, z: Tensor) -> Tensor:
        """One value per head, (H,), for each of its dimensions: (sum of sizes,)."""
        return z.index_select(0, self.head_of())


class PositionGate(nn.Module):
    """WavLM's gate on the relative position bias: (B, T, D) -> (B, H, T, 1), for the surviving heads.

    It reads the attention's *input*, split into the H original heads of K dimensions, not the projected query
    (s3prl's fast path, `modules.py`; its slow path computes something else).
    """

    def __init__(self, config: EncoderConfig, heads: list[int]):
        super().__init__()
        self.head_dim = config.head_dim
        self.projection = nn.Linear(config.head_dim, 8)  # shared by the heads
        self.scale = nn.Parameter(torch.ones(len(heads)))
        self.heads = Indices(heads)
        self.all_heads = len(heads) == config.num_heads

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, H, T, 1)."""
        x = x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, H, T, K)
        if not self.all_heads:
            x = x.index_select(1, self.heads())
        a, b = torch.sigmoid(self.projection(x).unflatten(-1, (2, 4)).sum(-1)).chunk(2, dim=-1)  # (B, H, T, 1) each
        return a * (b * self.scale.view(-1, 1, 1) - 1.0) + 2.0


class SelfAttention(nn.Module):
    """Multi-head self-attention with gate slots; (B, T, D) -> (B, T, D).

    Slots (Wang et al. 2023, eq. 3), None or a tensor: `z_qk` and `z_vo`, flat over the surviving dimensions of all
    heads; `z_head` (H,), whole heads, in the ablation in place of those two and elsewhere times them; `z_mha` (1,), on
    the output after its bias.
    The softmax scale stays 1/sqrt(K) of the original head dim, whatever is pruned.
    """

    def __init__(self, config: EncoderConfig, heads: tuple[HeadSpec, ...], ranks: Ranks | None = None):
        super().__init__()
        ranks = ranks or Ranks()
        self.scale = config.head_dim**-0.5
        self.dropout = config.attention_dropout
        self.qk_heads = RaggedHeads([len(head.qk) for head in heads])
        self.vo_heads = RaggedHeads([len(head.vo) for head in heads])
        num_qk, num_vo = sum(self.qk_heads.sizes), sum(self.vo_heads.sizes)
        self.q_proj = linear(config.embed_dim, num_qk, rank=ranks.q_proj)
        self.k_proj = linear(config.embed_dim, num_qk, rank=ranks.k_proj)
        self.v_proj = linear(config.embed_dim, num_vo, rank=ranks.v_proj)
        self.out_proj = linear(num_vo, config.embed_dim, rank=ranks.out_proj)
        indices = [head.index for head in heads]
        self.gate = PositionGate(config, indices) if config.gated_position and heads else None
        self.heads = Indices(indices)
        self.all_heads = len(indices) == config.num_heads
        self.z_qk: Tensor | None = None
        self.z_vo: Tensor | None = None
        self.z_head: Tensor | None = None
        self.z_mha: Tensor | None = None

    def forward(self, x: Tensor, position_bias: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        """Attend (Wang et al. 2023, eq. 3).

        Args:
            x: (B, T, D).
            position_bias: (H of the dense layer, T, T), added to the scores after gating; None for none.
            padding: (B, T) bool, True where a frame is padding and must not be attended to; None for none.

        Returns:
            (B, T, D).
        """
        return masked(self.attend(x, position_bias, padding), self.z_mha)

    def attend(self, x: Tensor, position_bias: Tensor | None, padding: Tensor | None) -> Tensor:
        """`forward` without `z_mha`."""
        if not self.vo_heads.sizes:
            return self.out_proj(x[..., :0])
        query = self.qk_heads.split(masked(self.q_proj(x), self.z_qk))  # (B, H, T, width)
        key, value = self.qk_heads.split(self.k_proj(x)), self.vo_heads.split(self.v_proj(x))
        bias, dropout = self.score_bias(x, position_bias, padding), self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, bias, dropout, scale=self.scale)
        return self.out_proj(masked(self.vo_heads.merge(context), self.with_heads(self.z_vo, self.vo_heads, x)))

    def with_heads(self, z: Tensor | None, heads: RaggedHeads, x: Tensor) -> Tensor | None:
        """Masks of dimensions, flat, times `z_head` of their heads, in fp64 where `x` is; None for neither."""
        if self.z_head is None:
            return z
        of_heads = heads.spread(self.z_head).to(torch.promote_types(self.z_head.dtype, x.dtype))
        return of_heads if z is None else of_heads * z

    def weights(self, x: Tensor, position_bias: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        """What `forward` weighs the values with, for analysis: (B, H, T, T), [b, h, query, key]; each query's sum to 1.

        Args:
            x: as `forward`.
            position_bias: as `forward`.
            padding: as `forward`.
        """
        query = masked(self.q_proj(x), self.z_qk)
        scores = self.qk_heads.split(query) @ self.qk_heads.split(self.k_proj(x)).transpose(-1, -2) * self.scale
        bias = self.score_bias(x, position_bias, padding)
        return (scores if bias is None else scores + bias).softmax(-1)

    def score_bias(self, x: Tensor, position_bias: Tensor | None, padding: Tensor | None) -> Tensor | None:
        """What is added to the scores: (B, H, T, T), (B, 1, 1, T) or None."""
        bias = None
        if position_bias is not None:
            bias = position_bias if self.all_heads else position_bias.index_select(0, self.heads())
            bias = bias.unsqueeze(0) if self.gate is None else self.gate(x) * bias
        if padding is None:
            return bias
        keys = padding[:, None, None, :]
        if bias is None:
            return torch.zeros_like(keys, dtype=x.dtype).masked_fill(keys, float("-inf"))
        return bias.masked_fill(keys, float("-inf"))

    def extra_repr(self) -> str:
        """What a printed model tells."""
        return f"heads={self.heads.values}, qk={self.qk_heads.sizes}, vo={self.vo_heads.sizes}"
