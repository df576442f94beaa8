"""Self-attention whose heads may keep different numbers of query/key and value/output dimensions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from s3prl_pruned.models.linear import linear, masked, masked_linear, precision_of
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import HeadSpec, Ranks


def padded_width(sizes: list[int]) -> int:
    """Width that each head of a layer is padded to, so that one call computes heads of different sizes."""
    return max([1, *sizes])


class Indices(nn.Module):
    """A constant vector of indices that follows its model's device and is not saved with the weights."""

    def __init__(self, values: list[int]):
        super().__init__()
        self.values = list(values)
        self.index: Tensor
        self.register_buffer("index", torch.tensor(self.values, dtype=torch.long), persistent=False)

    def reset(self) -> None:
        """Fill it again: a loader that builds models on the meta device (transformers') leaves it empty."""
        self.index = torch.tensor(self.values, dtype=torch.long, device=self.index.device)

    def forward(self) -> Tensor:
        """(N,) int64."""
        return self.index


class RaggedHeads(nn.Module):
    """Converts between flat dimensions (B, T, sum of sizes) and zero-padded heads (B, H, T, largest size).

    Padding changes nothing: a zero query/key dimension adds nothing to a score, and `merge` removes the padded value
    dimensions.
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
        """Repeat one value per head, (H,), for each of its dimensions: (sum of sizes,)."""
        return z.index_select(0, self.head_of())


def _layout(heads: tuple[HeadSpec, ...]) -> list[int]:
    """For each head: first query/key dimension, their number, the same for value/output, and its original index."""
    values: list[int] = []
    qk = vo = 0
    for head in heads:
        values += [qk, len(head.qk), vo, len(head.vo), head.index]
        qk, vo = qk + len(head.qk), vo + len(head.vo)
    return values


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

    def reset(self) -> None:
        """Set its own weights to their initial values."""
        nn.init.ones_(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, H, T, 1)."""
        x = x.unflatten(-1, (-1, self.head_dim))  # (B, T, H, K)
        if not self.all_heads:
            x = x.index_select(2, self.heads())
        eight = self.projection(x).transpose(1, 2)  # (B, H, T, 8)
        a, b = torch.sigmoid(eight.unflatten(-1, (2, 4)).sum(-1)).chunk(2, dim=-1)  # (B, H, T, 1) each
        return a * (b * self.scale.view(-1, 1, 1) - 1.0) + 2.0


class _GatedBias(torch.autograd.Function):
    """gates (B, H, T, 1) times position bias (H, T, T), rounded once to `dtype`: (B, H, T, T); -inf at padded keys.

    No tensor of that size is created in fp32, neither in the forward nor in the backward pass, which sums in fp32.
    """

    ELEMENTS = 2**24
    """Elements of the (B, H, T, T) that the backward pass holds in fp32 at a time."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, bias: Tensor, padding: Tensor | None, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(gates, bias)
        frames = bias.shape[-1]
        # CUDA's attention kernels copy a bias whose rows do not begin at multiples of 16 elements.
        width = -(-frames // 16) * 16 if bias.is_cuda else frames
        product = torch.empty(*gates.shape[:3], width, dtype=dtype, device=bias.device)[..., :frames]
        torch.mul(gates, bias, out=product)
        return product if padding is None else product.masked_fill_(padding[:, None, None, :], float("-inf"))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gates, bias = ctx.saved_tensors
        of_gates, of_bias = torch.empty_like(gates), torch.zeros_like(bias)
        size = max(1, _GatedBias.ELEMENTS // max(1, bias.numel()))
        for part, gate, of_gate in zip(grad.split(size), gates.split(size), of_gates.split(size), strict=True):
            precise = part.to(torch.promote_types(gates.dtype, bias.dtype))
            of_gate.copy_((precise * bias).sum(-1, keepdim=True))
            of_bias += (precise * gate).sum(0)
        return of_gates, of_bias, None, None


def gated_bias(gates: Tensor, bias: Tensor, padding: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The gated position bias, which is added to the scores: (B, H, T, T).

    Args:
        gates: (B, H, T, 1), from `PositionGate`.
        bias: (H, T, T), the position bias.
        padding: (B, T) bool, True where a frame is padding; None for none.
        dtype: dtype of the scores.
    """
    if not torch.compiler.is_compiling():
        return _GatedBias.apply(gates, bias, padding, dtype)
    product = (gates * bias).to(dtype)  # compilers fuse this
    return product if padding is None else product.masked_fill(padding[:, None, None, :], float("-inf"))


def with_bias_made_again(make: Callable[[], Tensor | None], attend: Callable[[Tensor | None], Tensor]) -> Tensor:
    """`attend(make())`, where the backward pass recomputes the bias (B, H, T, T) instead of storing it.

    Args:
        make: computes the bias; must be deterministic.
        attend: attention as a function of the bias.
    """
    bias = make()
    if bias is None or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return attend(bias)
    own = bias.untyped_storage()._cdata

    def pack(kept: Tensor) -> Any:
        is_bias = kept.untyped_storage()._cdata == own
        return (kept.size(), kept.stride(), kept.storage_offset()) if is_bias else kept

    def unpack(kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        again = make()
        assert again is not None
        return again.as_strided(*kept)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return attend(bias)


class SelfAttention(nn.Module):
    """Multi-head self-attention with gate slots; (B, T, D) -> (B, T, D).

    Slots (Wang et al. 2023, eq. 3), None or a tensor: `z_qk` and `z_vo`, flat over the surviving dimensions of all
    heads; `z_head` (H,), for whole heads, which replaces these two in the ablation and else multiplies them; `z_mha`
    (1,), on the output after its bias.
    The softmax scale stays 1/sqrt(K) of the original head dim, whatever is pruned.

    Attributes:
        keeps_bias: store the gated position bias for the backward pass instead of recomputing it.
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
        self.k_proj = linear(config.embed_dim, num_qk, rank=ranks.k_proj, bias=config.key_bias)
        self.v_proj = linear(config.embed_dim, num_vo, rank=ranks.v_proj)
        self.out_proj = linear(num_vo, config.embed_dim, rank=ranks.out_proj)
        indices = [head.index for head in heads]
        self.gate = PositionGate(config, indices) if config.gated_position and heads else None
        self.heads = Indices(indices)
        self.layout = Indices(_layout(heads))
        self.all_heads = len(indices) == config.num_heads
        self.z_qk: Tensor | None = None
        self.z_vo: Tensor | None = None
        self.z_head: Tensor | None = None
        self.z_mha: Tensor | None = None
        self.keeps_bias = False

    def forward(self, x: Tensor, position_bias: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        """Attend (Wang et al. 2023, eq. 3).

        Args:
            x: (B, T, D).
            position_bias: (H of the dense layer, T, T), added to the scores after gating; None for none.
            padding: (B, T) bool, True where a frame is padding and must not be attended to; None for none.

        Returns:
            (B, T, D).
        """
        return self.attend(x, position_bias, padding, self.z_mha)

    def attend(self, x: Tensor, position_bias: Tensor | None, padding: Tensor | None, z_mha: Tensor | None) -> Tensor:
        """`forward` with this `z_mha`."""
        if not self.vo_heads.sizes:
            return masked(self.out_proj(x[..., :0]), z_mha)
        x = x.to(precision_of(x))  # one cast; autocast would store one for each projection
        query = masked_linear(self.q_proj, x, outputs=self.z_qk)
        context = self.context(query, self.k_proj(x), self.v_proj(x), x, position_bias, padding)
        z_vo = self.with_heads(self.z_vo, self.vo_heads, x)
        return masked_linear(self.out_proj, context, inputs=z_vo, outputs=z_mha)

    def context(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        x: Tensor,
        position_bias: Tensor | None,
        padding: Tensor | None,
    ) -> Tensor:
        """The input of the output projection: (B, T, sum of value/output sizes).

        Args:
            query: (B, T, sum of query/key sizes), masked.
            key: as `query`.
            value: (B, T, sum of value/output sizes).
            x: as `forward`.
            position_bias: as `forward`.
            padding: as `forward`.
        """
        query, key = self.qk_heads.split(query), self.qk_heads.split(key)  # (B, H, T, width)
        make_bias = self.bias_of(x, position_bias, padding)
        return self.vo_heads.merge(self.mix(query, key, self.vo_heads.split(value), make_bias))

    def mix(self, query: Tensor, key: Tensor, value: Tensor, make_bias: Callable[[], Tensor | None]) -> Tensor:
        """Values weighted by attention: (B, H, T, width).

        Args:
            query: (B, H, T, width).
            key: as `query`.
            value: (B, H, T, width), of another width.
            make_bias: from `bias_of`.
        """
        dropout = self.dropout if self.training else 0.0

        def attend(bias: Tensor | None) -> Tensor:
            return F.scaled_dot_product_attention(query, key, value, bias, dropout, scale=self.scale)

        return attend(make_bias()) if self.keeps_bias else with_bias_made_again(make_bias, attend)

    def with_heads(self, z: Tensor | None, heads: RaggedHeads, x: Tensor) -> Tensor | None:
        """Flat masks of dimensions times `z_head` of their heads, in fp64 if `x` is; None if there are neither."""
        if self.z_head is None:
            return z
        of_heads = heads.spread(self.z_head).to(torch.promote_types(self.z_head.dtype, x.dtype))
        return of_heads if z is None else of_heads * z

    def weights(self, x: Tensor, position_bias: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        """Attention weights, for analysis: (B, H, T, T), [b, h, query, key]; those of each query sum to 1.

        Args:
            x: as `forward`.
            position_bias: as `forward`.
            padding: as `forward`.
        """
        query = masked(self.q_proj(x), self.z_qk)
        scores = self.qk_heads.split(query) @ self.qk_heads.split(self.k_proj(x)).transpose(-1, -2) * self.scale
        bias = self.bias_of(x, position_bias, padding)()
        return (scores if bias is None else scores + bias).softmax(-1)

    def bias_of(self, x: Tensor, position_bias: Tensor | None, padding: Tensor | None) -> Callable[[], Tensor | None]:
        """A function that computes what is added to the scores: (B, H, T, T), (1, H, T, T), (B, 1, 1, T) or None.

        Args:
            x: as `forward`.
            position_bias: as `forward`.
            padding: as `forward`.
        """
        if position_bias is not None and not self.all_heads:
            position_bias = position_bias.index_select(0, self.heads())
        if position_bias is not None and self.gate is not None:
            return partial(gated_bias, self.gate(x), position_bias, padding, precision_of(x))
        bias = None if position_bias is None else position_bias.unsqueeze(0)
        if padding is not None:
            keys = padding[:, None, None, :]
            bias = torch.zeros_like(keys, dtype=x.dtype) if bias is None else bias
            bias = bias.masked_fill(keys, float("-inf"))
        return lambda: bias

    def extra_repr(self) -> str:
        """What a printed model shows."""
        return f"heads={self.heads.values}, qk={self.qk_heads.sizes}, vo={self.vo_heads.sizes}"
