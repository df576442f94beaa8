"""The structure of a pruned encoder, as plain data: the parts of the dense shape that are kept, by original index."""

import itertools
from dataclasses import asdict, dataclass, field

from s3prl_pruned.config import ADDED, UserError
from s3prl_pruned.models.shape import EncoderConfig


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """One surviving attention head: which of its original dimensions are kept (0..K-1, ascending)."""

    index: int
    """Position of the head in the dense layer, 0..H-1."""
    qk: tuple[int, ...]
    """Query/key dimensions that are kept. May be empty: the head then attends by position bias only."""
    vo: tuple[int, ...]
    """Value/output dimensions that are kept."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Ranks of a layer's linear maps that are held as two factors, (in, rank) and (rank, out); None: held whole."""

    q_proj: int | None = None
    k_proj: int | None = None
    v_proj: int | None = None
    out_proj: int | None = None
    fc1: int | None = None
    fc2: int | None = None


ATTENTION_MAPS, FEED_FORWARD_MAPS = ("q_proj", "k_proj", "v_proj", "out_proj"), ("fc1", "fc2")
"""The linear maps whose weights are prunable, by sublayer. Each maps between D and dimensions of the layer."""


def kept_ranks(ranks: Ranks, *, attention: bool, feed_forward: bool) -> Ranks:
    """The ranks of the sublayers that are kept."""
    kept = ATTENTION_MAPS * attention + FEED_FORWARD_MAPS * feed_forward
    return Ranks(**{name: getattr(ranks, name) for name in kept})


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """One Transformer layer: which sublayers, heads and intermediate dimensions are kept."""

    attention: bool
    """Whether the attention sublayer is kept. True without heads keeps only its output bias."""
    heads: tuple[HeadSpec, ...]
    feed_forward: bool
    """Whether the feed-forward sublayer is kept. True without dimensions keeps only its output bias."""
    ffn: tuple[int, ...]
    """Intermediate dimensions that are kept (0..F-1, ascending)."""
    ranks: Ranks = Ranks()
    """Ranks of the kept sublayers' linear maps."""

    @property
    def mask_sizes(self) -> dict[str, int]:
        """Number of masks of each kind (Wang et al. 2023, eq. 3; `head` for the ablation) in this layer."""
        return {
            "mha": int(self.attention),
            "qk": sum(len(head.qk) for head in self.heads),
            "vo": sum(len(head.vo) for head in self.heads),
            "head": len(self.heads),
            "ffn": int(self.feed_forward),
            "int": len(self.ffn),
        }


@dataclass(frozen=True, kw_only=True)
class CompactSpec:
    """The structure of a pruned encoder, by original index; one entry per layer."""

    layers: tuple[LayerSpec, ...]
    channels: tuple[tuple[int, ...], ...] | None = None
    """Kept channels of each layer of the feature extractor (ascending, at least one); None if the CNN is not pruned, as
    in the paper: it is then whole, and not counted in the sparsity (`sparsity/counts.py`)."""
    position_groups: tuple[int, ...] | None = field(default=None, metadata=ADDED)
    """Kept groups of the positional convolution (ascending; without any, it adds nothing); None if it is not pruned, as
    in the paper: it is then whole, and not counted in the sparsity."""

    @classmethod
    def dense(cls, config: EncoderConfig) -> "CompactSpec":
        """Everything is kept, and the CNN is not pruned."""
        dims = tuple(range(config.head_dim))
        layer = LayerSpec(
            attention=True,
            heads=tuple(HeadSpec(index=h, qk=dims, vo=dims) for h in range(config.num_heads)),
            feed_forward=True,
            ffn=tuple(range(config.ffn_dim)),
        )
        return cls(layers=(layer,) * config.num_layers)

    @property
    def has_attention(self) -> bool:
        """Whether any layer still has an attention head."""
        return any(layer.heads for layer in self.layers)

    def channels_of(self, config: EncoderConfig) -> tuple[tuple[int, ...], ...]:
        """Kept channels of each layer of the feature extractor, also if the CNN is not pruned."""
        return self.channels or tuple(tuple(range(channels)) for channels, _, _ in config.conv_layers)

    def conv_mask_sizes(self, config: EncoderConfig) -> tuple[int, ...]:
        """Number of masks `z_conv` of each layer of the feature extractor: its channels.

        0 for the last layer if no projection follows it, since its channels are those of the residual stream.
        """
        sizes = [len(channels) for channels in self.channels_of(config)]
        return (*sizes[:-1], sizes[-1] if config.has_projection else 0)

    def groups_of(self, config: EncoderConfig) -> tuple[int, ...]:
        """Kept groups of the positional convolution, also if it is not pruned."""
        return tuple(range(config.pos_conv_groups)) if self.position_groups is None else self.position_groups

    def check(self, config: EncoderConfig) -> None:
        """Raise UserError unless every index exists in `config`, is ascending and belongs to a kept sublayer."""
        if len(self.layers) != config.num_layers:
            raise UserError(f"the spec has {len(self.layers)} layers, but the encoder has {config.num_layers}.")
        for i, layer in enumerate(self.layers):
            _check_indices(f"layer {i} ffn", layer.ffn, config.ffn_dim)
            _check_indices(f"layer {i} heads", tuple(h.index for h in layer.heads), config.num_heads)
            for head in layer.heads:
                _check_indices(f"layer {i} head {head.index} qk", head.qk, config.head_dim)
                _check_indices(f"layer {i} head {head.index} vo", head.vo, config.head_dim)
            if (layer.heads and not layer.attention) or (layer.ffn and not layer.feed_forward):
                raise UserError(f"layer {i} of the spec keeps dimensions of a sublayer that it removes.")
            for names, alive in ((ATTENTION_MAPS, layer.attention), (FEED_FORWARD_MAPS, layer.feed_forward)):
                ranks = {name: rank for name in names if (rank := getattr(layer.ranks, name)) is not None}
                if ranks and not alive:
                    raise UserError(f"layer {i} of the spec has ranks of a sublayer that it removes: {ranks}.")
                if any(not 1 <= rank <= config.embed_dim for rank in ranks.values()):
                    raise UserError(
                        f"layer {i} of the spec: ranks must be from 1 to {config.embed_dim}, but are {ranks}."
                    )
        if self.channels is not None:
            self._check_channels(config, self.channels)
        if self.position_groups is not None:
            check_position_groups(config)
            _check_indices("groups of the positional convolution", self.position_groups, config.pos_conv_groups)

    def _check_channels(self, config: EncoderConfig, channels: tuple[tuple[int, ...], ...]) -> None:
        if len(channels) != len(config.conv_layers):
            raise UserError(f"the spec has {len(channels)} CNN layers, but the encoder has {len(config.conv_layers)}.")
        for i, (kept, (whole, _, _)) in enumerate(zip(channels, config.conv_layers, strict=True)):
            _check_indices(f"CNN layer {i} channels", kept, whole)
            if not kept:
                raise UserError(f"CNN layer {i} of the spec keeps no channel, and at least one must stay.")
        if not config.has_projection and len(channels[-1]) < config.embed_dim:
            raise UserError(
                f"the spec keeps {len(channels[-1])} channels of the last CNN layer, but without a projection behind "
                f"it all {config.embed_dim} must stay."
            )

    def to_dict(self) -> dict:
        """Plain lists and dicts, for JSON. `config.from_dict(CompactSpec, ...)` is the inverse."""
        data = asdict(self)
        for layer, plain in zip(self.layers, data["layers"], strict=True):
            if layer.ranks == Ranks():
                del plain["ranks"]  # as in exports from before factorised layers
        if self.channels is None:
            del data["channels"]  # as in exports from before CNNs could be pruned
        if self.position_groups is None:
            del data["position_groups"]  # as in exports from before it could be pruned
        return data


def check_position_groups(config: EncoderConfig) -> None:
    """Raise UserError unless groups of the encoder's positional convolution can go."""
    if not config.has_position_groups:
        found = "fixed positions" if config.positions == "fixed" else f"a stack of {config.pos_conv_depth}"
        raise UserError(
            "a single positional convolution can be pruned by groups (gates of the kind `pos`), but this "
            f"{config.family} encoder has {found}. Leave the kind out."
        )


def _check_indices(what: str, indices: tuple[int, ...], size: int) -> None:
    if any(b <= a for a, b in itertools.pairwise(indices)) or (indices and not 0 <= indices[0] <= indices[-1] < size):
        raise UserError(f"{what} of the spec must be ascending indices below {size}, but is {list(indices)[:8]}...")
