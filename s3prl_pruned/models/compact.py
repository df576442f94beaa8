"""The structure that masks leave of an encoder, and slicing to it: the same weights, physically smaller."""

from collections.abc import Mapping

import torch
from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.models.components import PositionalConvolution
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.masks import Slot, masks_of_layer
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec, HeadSpec, LayerSpec, Ranks, kept_ranks


def surviving_spec(
    spec: CompactSpec, masks: Mapping[Slot, Tensor], *, shape: EncoderConfig | None = None
) -> CompactSpec:
    """The part of `spec` whose masks are not zero. Empty slots keep everything.

    A head without value/output dimensions is removed with its query/key dimensions; a head without query/key
    dimensions is kept (it attends by position bias only).

    Args:
        spec: the encoder's structure.
        masks: (n,) by slot, as `SpeechEncoder.set_masks`.
        shape: the encoder's dense shape; only masks beside the layers need it.
    """
    channels, groups = spec.channels, spec.position_groups
    if any(name == "z_conv" for _, name in masks):
        assert shape is not None
        channels = tuple(_kept(there, masks.get((i, "z_conv"))) for i, there in enumerate(spec.channels_of(shape)))
    if (0, "z_pos") in masks:
        assert shape is not None
        groups = _kept(spec.groups_of(shape), masks[0, "z_pos"])
    layers = tuple(_surviving_layer(layer, masks_of_layer(masks, i)) for i, layer in enumerate(spec.layers))
    return CompactSpec(layers=layers, channels=channels, position_groups=groups)


def _kept(indices: tuple[int, ...], z: Tensor | None) -> tuple[int, ...]:
    return indices if z is None else tuple(d for d, value in zip(indices, z.tolist(), strict=True) if value != 0)


def _surviving_layer(layer: LayerSpec, masks: dict[str, Tensor]) -> LayerSpec:
    def alive(name: str) -> bool:
        return name not in masks or bool(masks[name].any())

    def parts(name: str, sizes: list[int]) -> list[Tensor | None]:
        return list(masks[name].split(sizes)) if name in masks else [None] * len(sizes)

    attention = layer.attention and alive("z_mha")
    feed_forward = layer.feed_forward and alive("z_ffn")
    of_heads = masks["z_head"].tolist() if "z_head" in masks else [1.0] * len(layer.heads)
    heads = []
    z_qk, z_vo = (
        parts("z_qk", [len(head.qk) for head in layer.heads]),
        parts("z_vo", [len(head.vo) for head in layer.heads]),
    )
    for head, stays, qk, vo in zip(layer.heads, of_heads, z_qk, z_vo, strict=True):
        kept = HeadSpec(index=head.index, qk=_kept(head.qk, qk), vo=_kept(head.vo, vo))
        if kept.vo and attention and stays:
            heads.append(kept)
    return LayerSpec(
        attention=attention,
        heads=tuple(heads),
        feed_forward=feed_forward,
        ffn=_kept(layer.ffn, masks.get("z_int")) if feed_forward else (),
        ranks=kept_ranks(layer.ranks, attention=attention, feed_forward=feed_forward),
    )


def compact(encoder: SpeechEncoder, spec: CompactSpec) -> SpeechEncoder:
    """A new encoder that holds only what `spec` keeps.

    Args:
        encoder: dense, or already compact; masks in its slots are ignored.
        spec: the structure to keep, by original index. Its ranks must be the encoder's: slicing does not change them.

    Raises:
        UserError: `spec` keeps what `encoder` does not have (any more), or changes a rank.
    """
    small = SpeechEncoder(encoder.config, spec).to(next(encoder.parameters()))
    state = encoder.state_dict()
    for i, (old, new) in enumerate(zip(encoder.spec.layers, spec.layers, strict=True)):
        if (new.attention and not old.attention) or (new.feed_forward and not old.feed_forward):
            raise UserError(f"layer {i} of the spec keeps a sublayer that the encoder does not have.")
        if new.ranks != kept_ranks(old.ranks, attention=new.attention, feed_forward=new.feed_forward):
            raise UserError(f"layer {i} of the spec changes ranks: {new.ranks}, but the encoder has {old.ranks}.")
        state.update(_slice_layer(state, f"layers.{i}.", old, new))
    channels, kept = encoder.spec.channels_of(encoder.config), spec.channels_of(encoder.config)
    if kept != channels:
        state.update(_slice_cnn(state, channels, kept))
    groups, left = encoder.spec.groups_of(encoder.config), spec.groups_of(encoder.config)
    if left != groups:
        state.update(_slice_positions(encoder, small, _positions(groups, left)))
    names = small.state_dict().keys()
    small.load_state_dict({name: state[name] for name in names})
    return small.train(encoder.training)


def _slice_layer(state: dict[str, Tensor], prefix: str, old: LayerSpec, new: LayerSpec) -> dict[str, Tensor]:
    sliced: dict[str, Tensor] = {}
    if new.attention:
        qk = _positions(
            [(h.index, d) for h in old.heads for d in h.qk], [(h.index, d) for h in new.heads for d in h.qk]
        )
        vo = _positions(
            [(h.index, d) for h in old.heads for d in h.vo], [(h.index, d) for h in new.heads for d in h.vo]
        )
        attention = prefix + "attention."
        for name, rows in (("q_proj", qk), ("k_proj", qk), ("v_proj", vo)):
            sliced |= _rows(state, attention + name, rows)
        sliced |= _columns(state, attention + "out_proj", vo)
        if attention + "gate.scale" in state:
            heads = _positions([h.index for h in old.heads], [h.index for h in new.heads])
            sliced[attention + "gate.scale"] = state[attention + "gate.scale"][heads]
    if new.feed_forward:
        dims, feed_forward = _positions(old.ffn, new.ffn), prefix + "feed_forward."
        sliced |= _rows(state, feed_forward + "fc1", dims) | _columns(state, feed_forward + "fc2", dims)
    return sliced


@torch.no_grad()
def whole(encoder: SpeechEncoder) -> SpeechEncoder:
    """A dense encoder that computes the same as `encoder`, with zeros in place of removed weights.

    The inverse of `compact`, for programs that need one size for all layers.

    Args:
        encoder: dense or compact, without factors; masks in its slots are ignored.

    Raises:
        UserError: a linear map of it is held as two factors, or its projection's LayerNorm has lost channels.
    """
    config, spec = encoder.config, encoder.spec
    for i, layer in enumerate(spec.layers):
        if layer.ranks != Ranks():
            raise UserError(f"layer {i} holds linear maps as two factors, which cannot be filled up to a dense layer.")
    channels, every = spec.channels_of(config), CompactSpec.dense(config).channels_of(config)
    if channels[-1] != every[-1] and config.projection_norm:
        raise UserError("channels are gone that a LayerNorm counts: this CNN cannot be filled up to a dense one.")
    dense = SpeechEncoder(config).to(next(encoder.parameters()))
    state, small = {name: torch.zeros_like(value) for name, value in dense.state_dict().items()}, encoder.state_dict()
    heard = torch.arange(config.in_channels)
    places: dict[str, tuple[Tensor, ...]] = {}
    for i, kept in enumerate(channels):
        rows, prefix = torch.tensor(kept), f"feature_extractor.layers.{i}."
        places |= {prefix + "conv.weight": (rows[:, None], heard), prefix + "conv.bias": (rows,)}
        places |= {prefix + "norm.weight": (rows,), prefix + "norm.bias": (rows,)}
        heard = rows
    places["feature_projection.projection.weight"] = (torch.arange(config.embed_dim)[:, None], heard)
    if config.has_position_groups:
        prefix, width = "positional_convolution.conv.", config.embed_dim // config.pos_conv_groups
        rows = (torch.tensor(spec.groups_of(config), dtype=torch.long)[:, None] * width + torch.arange(width)).flatten()
        direction = prefix + "parametrizations.weight.original1"
        places |= {prefix + "bias": (rows,), direction: (rows,)}
        if not len(rows):
            state[direction] += 1  # of magnitude 0
    for i, layer in enumerate(spec.layers):
        places |= _places_of_layer(layer, f"layers.{i}.", config)
    for name, value in small.items():
        place = places.get(name)
        state[name][place if place is not None else ...] = value
    dense.load_state_dict(state)
    return dense.train(encoder.training)


def _places_of_layer(layer: LayerSpec, prefix: str, config: EncoderConfig) -> dict[str, tuple[Tensor, ...]]:
    """The positions of a compact layer's weights in those of the dense one: indices, by name."""
    every = torch.arange(config.embed_dim)
    qk, vo = (
        torch.tensor([h.index * config.head_dim + d for h in layer.heads for d in getattr(h, kind)], dtype=torch.long)
        for kind in ("qk", "vo")
    )
    ffn, heads = torch.tensor(layer.ffn, dtype=torch.long), torch.tensor([h.index for h in layer.heads])
    places: dict[str, tuple[Tensor, ...]] = {prefix + "attention.gate.scale": (heads,)}
    for name, rows in (("q_proj", qk), ("k_proj", qk), ("v_proj", vo)):
        places |= {f"{prefix}attention.{name}.weight": (rows,), f"{prefix}attention.{name}.bias": (rows,)}
    places |= {prefix + "feed_forward.fc1.weight": (ffn,), prefix + "feed_forward.fc1.bias": (ffn,)}
    places |= {prefix + "feed_forward.fc2.weight": (every[:, None], ffn)}
    return places | {prefix + "attention.out_proj.weight": (every[:, None], vo)}


def _rows(state: dict[str, Tensor], name: str, rows: Tensor) -> dict[str, Tensor]:
    """Slice a linear map's outputs; with two factors, those of the second."""
    name = name + ".up" if name + ".up.weight" in state else name
    parts = [f"{name}.{part}" for part in ("weight", "bias")]
    return {part: state[part][rows] for part in parts if part in state}


def _columns(state: dict[str, Tensor], name: str, columns: Tensor) -> dict[str, Tensor]:
    """Slice a linear map's inputs; with two factors, those of the first."""
    name = name + ".down" if name + ".down.weight" in state else name
    return {f"{name}.weight": state[f"{name}.weight"][:, columns]}


def _slice_cnn(
    state: dict[str, Tensor], old: tuple[tuple[int, ...], ...], new: tuple[tuple[int, ...], ...]
) -> dict[str, Tensor]:
    """Slice the feature extractor's layers, and the inputs of the projection after them."""
    sliced, heard = {}, torch.arange(state["feature_extractor.layers.0.conv.weight"].shape[1])
    for i, (before, after) in enumerate(zip(old, new, strict=True)):
        kept, prefix = _positions(before, after), f"feature_extractor.layers.{i}."
        sliced[prefix + "conv.weight"] = state[prefix + "conv.weight"][kept][:, heard]
        for name in ("conv.bias", "norm.weight", "norm.bias"):
            if prefix + name in state:
                sliced[prefix + name] = state[prefix + name][kept]
        heard = kept
    for name in ("channel_scale", "layer_norm.weight", "layer_norm.bias"):
        if "feature_projection." + name in state:
            sliced["feature_projection." + name] = state["feature_projection." + name][heard]
    if "feature_projection.projection.weight" in state:
        sliced["feature_projection.projection.weight"] = state["feature_projection.projection.weight"][:, heard]
    return sliced


def _slice_positions(old: SpeechEncoder, new: SpeechEncoder, kept: Tensor) -> dict[str, Tensor]:
    """The positional convolution of `new`: some groups of that of `old`, whose weights they keep, (n,) int64."""
    before, after = (encoder.positional_convolution for encoder in (old, new))
    assert isinstance(before, PositionalConvolution) and isinstance(after, PositionalConvolution)
    if before.conv is None or after.conv is None:
        return {}
    assert before.conv.bias is not None
    width = before.width
    rows = (kept[:, None] * width + torch.arange(width)).flatten().to(before.conv.bias.device)
    after.conv.hold(before.conv.weight[rows], before.conv.bias[rows])  # a tap's magnitude is over all groups
    return {f"positional_convolution.{name}": value for name, value in after.state_dict().items()}


def _positions(old: list | tuple, new: list | tuple) -> Tensor:
    """The position of each entry of `new` in `old`."""
    where = {entry: i for i, entry in enumerate(old)}
    gone = [entry for entry in new if entry not in where]
    if gone:
        raise UserError(f"the spec keeps {gone[:3]} ({len(gone)} in all) that the encoder does not have.")
    return torch.tensor([where[entry] for entry in new], dtype=torch.long)
