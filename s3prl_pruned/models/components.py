"""Building blocks of the encoder, in data order. Numerics follow s3prl's `upstream/wavlm/{WavLM,modules}.py`.

Legend of shapes: B batch, S samples (16 kHz), T frames (20 ms), C channels of the feature extractor,
D embed dim, H heads, K head dim, F feed-forward dim, L layers.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from s3prl_pruned.models.linear import linear, masked, masked_linear
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import Ranks

Held = TypeVar("Held", bound=nn.Module)


class Stack(nn.ModuleList, Generic[Held]):
    """`nn.ModuleList` that tells a type checker what it holds."""

    if TYPE_CHECKING:

        def __getitem__(self, index: int) -> Held:  # type: ignore[override]  # no slices here
            ...

        def __iter__(self) -> Iterator[Held]: ...


def exporting() -> bool:
    """Whether torch.export traces the model (a torch without `is_exporting` cannot tell it from torch.compile)."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def recorded() -> bool:
    """Whether the running code is traced, compiled or captured, so that no tensor may be cached across calls."""
    capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    return capturing or torch.compiler.is_compiling() or torch.jit.is_tracing()


def made_again(function: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """`function(*inputs)`, of which only the inputs are stored: the backward pass recomputes it.

    Args:
        function: deterministic. What else it reads must not change until the backward pass.
        inputs: its arguments.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def normalize_utterances(wavs: Tensor, lengths: Tensor | None) -> Tensor:
    """Zero mean and unit variance over each utterance's own samples, padding left at zero: (B, S) -> (B, S).

    The batched form of `data.waveforms.normalize_waveform` (a LayerNorm over the utterance). Sums and quotients are in
    fp32 at least: in fp16 a count above 65,504 samples (4 s) is infinite. An empty utterance stays at zero.

    Args:
        wavs: (B, S), zero-padded.
        lengths: (B,) int64 samples, or None when nothing is padded.
    """
    if lengths is None:
        return F.layer_norm(wavs, wavs.shape[-1:])
    valid = torch.arange(wavs.shape[1], device=wavs.device) < lengths[:, None]  # (B, S)
    counts, x = lengths[:, None].clamp(min=1), wavs.to(torch.promote_types(wavs.dtype, torch.float32))
    precise = torch.float64 if exporting() else x.dtype  # see `_normalise_over_time`
    mean = x.masked_fill(~valid, 0.0).to(precise).sum(1, keepdim=True) / counts
    centred = (x - mean.to(x.dtype)).masked_fill(~valid, 0.0)
    variance = centred.to(precise).square().sum(1, keepdim=True) / counts
    return (centred * torch.rsqrt(variance.to(x.dtype) + 1e-5)).to(wavs.dtype)


class TrainingDropout(nn.Dropout):
    """`nn.Dropout` that does nothing in evaluation mode, where torch's still calls an operator."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return super().forward(x) if self.training else x


class WeightNormConv1d(nn.Conv1d):
    """A convolution over frames whose weight is a direction times a magnitude per tap (Salimans and Kingma 2016).

    The same as `torch.nn.utils.parametrizations.weight_norm(conv, dim=2)`, under the same names, but as a class of
    its own: torch creates its class at run time, and such a module cannot be pickled.

    Args:
        dim: channels in and out, D.
        kernel: in frames; an even kernel gives one output frame too many.
        groups: groups of channels.
    """

    def __init__(self, dim: int, kernel: int, *, groups: int):
        super().__init__(dim, dim, kernel, padding=kernel // 2, groups=groups)
        weight = self._parameters.pop("weight")
        assert weight is not None
        self.parametrizations = nn.ModuleDict({"weight": WeightNorm(weight)})
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # a parameter there
        """(D, D / groups, kernel)."""
        return self.parametrizations["weight"]()

    @torch.no_grad()
    def hold(self, weight: Tensor, bias: Tensor) -> None:
        """Let weight (D, D / groups, kernel) and bias (D,) be these; of a tap that is all zero the direction stays."""
        norm = self.parametrizations["weight"]
        assert isinstance(norm, WeightNorm) and self.bias is not None
        magnitude = torch.norm_except_dim(weight, 2, 2)
        norm.original1.copy_(torch.where(magnitude > 0, weight, norm.original1))
        norm.original0.copy_(magnitude)
        self.bias.copy_(bias)


class WeightNorm(nn.Module):
    """Weight of a `WeightNormConv1d`, (D, D / groups, kernel): a direction, `original1`, of magnitude `original0`."""

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.original0 = nn.Parameter(torch.empty(1, 1, weight.shape[-1]))
        self.original1 = weight
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw new initial values."""
        dim, kernel = self.original1.shape[0], self.original1.shape[-1]
        nn.init.normal_(self.original1, std=math.sqrt(4.0 / (kernel * dim)))
        self.original0.copy_(torch.norm_except_dim(self.original1, 2, 2))

    def forward(self) -> Tensor:
        """(D, D / groups, kernel)."""
        if self.original1.is_cuda:
            return weight_norm(self.original1, self.original0)
        return torch._weight_norm(self.original1, self.original0, 2)


def weight_norm(direction: Tensor, magnitude: Tensor) -> Tensor:
    """The same as `torch._weight_norm(direction, magnitude, 2)`, whose GPU kernel takes 0.3 ms (H200).

    Args:
        direction: (D, D / groups, kernel).
        magnitude: (1, 1, kernel).
    """
    precise = torch.promote_types(direction.dtype, torch.float32)
    norm = torch.linalg.vector_norm(direction, dim=(0, 1), keepdim=True, dtype=precise)
    return direction * (magnitude.to(precise) / norm).to(direction.dtype)


class PositionalConvolution(nn.Module):
    """Weight-normalised grouped convolution over frames, then GELU: (B, T, D) -> (B, T, D).

    The output is 0 in the channels of a removed group.

    Slot: `z_pos` (groups,) on the output of each group, bias included, before GELU. So an export has it in its weights
    and biases, and a closed group gives GELU(0) = 0.

    Args:
        config: the dense shape.
        kept: groups that are kept, ascending; None for all.
    """

    def __init__(self, config: EncoderConfig, kept: tuple[int, ...] | None = None):
        super().__init__()
        groups = range(config.pos_conv_groups)
        self.kept = tuple(groups) if kept is None else kept
        self.width = config.embed_dim // config.pos_conv_groups
        runs = itertools.groupby(group in self.kept for group in groups)
        self._runs = [(is_kept, self.width * len(list(run))) for is_kept, run in runs]  # neighbouring channels
        dim, kernel = self.width * len(self.kept), config.pos_conv_kernel
        self.conv = WeightNormConv1d(dim, kernel, groups=len(self.kept)) if self.kept else None
        self.z_pos: Tensor | None = None

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D); `inside` as `PositionalConvolutionStack.forward`, not needed here."""
        if self.conv is None:
            return torch.zeros_like(x)
        y = self.convolve(self.conv, self._read(x))
        if self.z_pos is not None:
            y = masked(y, self.z_pos.repeat_interleave(self.width, output_size=y.shape[-1]))
        return self._placed(F.gelu(y))

    def convolve(self, conv: nn.Conv1d, x: Tensor) -> Tensor:
        """The convolution of the kept channels: (B, T, C) -> (B, T, C)."""
        return conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)  # an even kernel gives one frame too many

    def _read(self, x: Tensor) -> Tensor:
        """The channels of the kept groups, (B, T, D) -> (B, T, C)."""
        if len(self._runs) == 1:
            return x
        parts = x.split([size for _, size in self._runs], -1)
        return torch.cat([part for part, (is_kept, _) in zip(parts, self._runs, strict=True) if is_kept], -1)

    def _placed(self, y: Tensor) -> Tensor:
        """The reverse, with zeros in the other channels: (B, T, C) -> (B, T, D)."""
        if len(self._runs) == 1:
            return y
        parts = iter(y.split([size for is_kept, size in self._runs if is_kept], -1))
        return torch.cat([next(parts) if kept else y.new_zeros(*y.shape[:-1], size) for kept, size in self._runs], -1)

    def extra_repr(self) -> str:
        """What a printed model tells."""
        return f"groups={len(self.kept)}"


class PositionalConvolutionStack(nn.Module):
    """data2vec's stack of grouped convolutions, each with a plain LayerNorm and GELU; (B, T, D) -> (B, T, D)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        kernel, dim, groups = config.pos_conv_kernel, config.embed_dim, config.pos_conv_groups
        self.convs: Stack[nn.Conv1d] = Stack(
            nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups) for _ in range(config.pos_conv_depth)
        )

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D).

        Args:
            x: (B, T, D).
            inside: (T,) bool, True for frames that exist: no convolution reads the others. None for all.
        """
        for conv in self.convs:
            x = x if inside is None else x.masked_fill(~inside[:, None], 0.0)
            x = self.convolve(conv, x)
            x = F.gelu(F.layer_norm(x, x.shape[-1:]))
        return x

    def convolve(self, conv: nn.Conv1d, x: Tensor) -> Tensor:
        """One of the convolutions: (B, T, D) -> (B, T, D)."""
        return conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)


class FixedPositions(nn.Module):
    """A fixed vector for each frame of a window: (B, T, D) -> (T, D).

    Not trained, but saved with the weights: a checkpoint may have its own (OpenAI's are rounded to half precision).
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        assert config.max_frames is not None, "fixed positions need `max_frames`"
        self.embedding: Tensor
        self.register_buffer("embedding", sinusoids(config.max_frames, config.embed_dim))

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (T, D), T at most `max_frames`; `inside` as `PositionalConvolution.forward`."""
        return self.embedding[: x.shape[1]]

    def extra_repr(self) -> str:
        """What a printed model shows."""
        return f"frames={len(self.embedding)}"


def sinusoids(frames: int, dim: int) -> Tensor:
    """Sines, then cosines, with dim / 2 rates from 1 to 1 / 10,000 per frame (Vaswani et al. 2017): (frames, dim)."""
    rates = torch.exp(torch.arange(dim // 2) * (-math.log(10_000) / max(1, dim // 2 - 1)))
    angles = torch.arange(frames)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def positional_convolution(config: EncoderConfig, kept: tuple[int, ...] | None = None) -> nn.Module:
    """The module whose output is added to the projected features: (B, T, D) -> (B, T, D), or (T, D) if fixed.

    Args:
        config: the dense shape.
        kept: groups of a single convolution that are kept; None for all.
    """
    if config.positions == "fixed":
        return FixedPositions(config)
    return PositionalConvolution(config, kept) if config.has_position_groups else PositionalConvolutionStack(config)


class RelativePosition(nn.Module):
    """Bucketed relative position bias, one value per head and distance (T5's buckets, as in WavLM).

    Owned by the encoder and not by layer 0's attention, so that pruning that attention does not remove the
    bias of all other layers.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.num_buckets = config.num_buckets
        self.max_distance = config.max_distance
        self.embedding = nn.Embedding(config.num_buckets, config.num_heads)
        self._last_buckets: Tensor | None = None

    def buckets(self, distance: Tensor) -> Tensor:
        """Bucket of key position minus query position, in frames; int64, any shape."""
        half = self.num_buckets // 2
        exact = half // 2
        size = distance.abs()
        # clamp: log(0) is never selected, but would make an undefined int64.
        coarse = torch.log(size.clamp(min=1).float() / exact) / math.log(self.max_distance / exact) * (half - exact)
        coarse = (exact + coarse.to(torch.long)).clamp(max=half - 1)
        return (distance > 0).long() * half + torch.where(size < exact, size, coarse)

    def by_distance(self, num_frames: int) -> Tensor:
        """Bias by key position minus query position, from 1 - T to T - 1: (H, 2T - 1) for `num_frames` = T."""
        return self.embedding(self._buckets_of(num_frames)).T

    def _buckets_of(self, num_frames: int) -> Tensor:
        """Buckets of all distances, (2T - 1,) int64; the last result is cached: it takes a dozen small operations."""
        device = self.embedding.weight.device
        if recorded():
            return self.buckets(torch.arange(1 - num_frames, num_frames, device=device))
        kept = self._last_buckets
        if kept is None or len(kept) != 2 * num_frames - 1 or kept.device != device:
            with torch.inference_mode(False):
                kept = self._last_buckets = self.buckets(torch.arange(1 - num_frames, num_frames, device=device))
        return kept

    def forward(self, num_frames: int) -> Tensor:
        """Bias for `num_frames` = T queries and keys: (H, T, T), [h, query, key]."""
        return toeplitz(self.by_distance(num_frames))


def toeplitz(by_distance: Tensor) -> Tensor:
    """(H, 2T - 1) by distance -> (H, T, T), [h, query, key]: row q is the window of the distances that starts at -q."""
    num_frames = (by_distance.shape[-1] + 1) // 2
    if exporting():  # exporters fix the length of the view below
        positions = torch.arange(num_frames, device=by_distance.device)
        return by_distance[:, positions - positions[:, None] + num_frames - 1]
    return by_distance.unfold(-1, num_frames, 1).flip(1)


class FeedForward(nn.Module):
    """Linear, GELU, linear; (B, T, D) -> (B, T, D). Slots: `z_int` (F,) after GELU, `z_ffn` (1,) on the output."""

    def __init__(self, config: EncoderConfig, num_dims: int, ranks: Ranks | None = None):
        super().__init__()
        ranks = ranks or Ranks()
        self.num_dims = num_dims
        self.fc1 = linear(config.embed_dim, num_dims, rank=ranks.fc1)
        self.fc2 = linear(num_dims, config.embed_dim, rank=ranks.fc2)
        self.activation_dropout = TrainingDropout(config.activation_dropout)
        self.z_int: Tensor | None = None
        self.z_ffn: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D) (Wang et al. 2023, eq. 3)."""
        return self.transform(x, self.z_ffn)

    def transform(self, x: Tensor, z_ffn: Tensor | None) -> Tensor:
        """`forward` with this `z_ffn`."""
        x = self.activation_dropout(F.gelu(self.fc1(x)))  # (B, T, F)
        return masked_linear(self.fc2, x, inputs=self.z_int, outputs=z_ffn)

    def extra_repr(self) -> str:
        """What a printed model shows."""
        return f"dims={self.num_dims}"
