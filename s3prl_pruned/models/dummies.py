"""Tiny shapes, and random weights, structures and masks, for tests. Nothing measured on them is a result."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from s3prl_pruned.models import families
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.masks import Masks, SlotTable
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec, HeadSpec, LayerSpec
from s3prl_pruned.models.state_rule import StateHeads, StateRule


def tiny_base(**changes: Any) -> EncoderConfig:
    """WavLM Base's architecture at 3 layers x 24 dims; 80 samples a frame, receptive field 100 samples.

    The buckets are few, so that short utterances reach the logarithmic ones and the last one.
    """
    config = EncoderConfig(
        conv_layers=((8, 10, 5), (10, 3, 2), (10, 3, 2), (12, 2, 2), (12, 2, 2)),
        num_layers=3,
        embed_dim=24,
        num_heads=4,
        ffn_dim=20,
        pos_conv_kernel=8,
        pos_conv_groups=4,
        num_buckets=32,
        max_distance=24,
    )
    return replace(config, **changes)


def tiny_large(**changes: Any) -> EncoderConfig:
    """WavLM Large's architecture in `tiny_base`'s shape."""
    return tiny_base(**{"extractor_mode": "layer_norm", "norm_first": True, "normalize_waveform": True, **changes})


def tiny_families() -> dict[str, EncoderConfig]:
    """Each family's Base and Large architecture in `tiny_base`'s shape.

    Also wav2vec 2.0 Large of LibriSpeech, whose architecture is Base's.
    """
    plain = {"relative_position": False, "gated_position": False, "num_buckets": 320, "max_distance": 800}
    wav2vec2 = {**plain, "family": "wav2vec2", "padding_rule": "convolution"}
    stack = {"pos_conv_kernel": 5, "pos_conv_depth": 3, "extractor_mode": "layer_norm", "normalize_waveform": True}
    large = {"num_layers": 4, "embed_dim": 32}
    return {
        "wavlm_base": tiny_base(),
        "wavlm_large": tiny_large(),
        "hubert_base": tiny_base(family="hubert", **plain),
        "hubert_large": tiny_large(family="hubert", **plain),
        "wav2vec2_base": tiny_base(**wav2vec2),
        "wav2vec2_large": tiny_large(conv_bias=True, **wav2vec2),
        "wav2vec2_large_960": tiny_base(**wav2vec2, **large),
        "data2vec_base": tiny_base(**{**wav2vec2, **stack, "family": "data2vec"}),
        "data2vec_large": tiny_base(**{**wav2vec2, **stack, **large, "family": "data2vec"}),
    }


def tiny_whisper(**changes: Any) -> EncoderConfig:
    """Whisper's architecture in `tiny_base`'s shape; 320 samples a frame, windows of 25 frames, half a second."""
    config = families.whisper(num_layers=3, embed_dim=24, num_heads=4, ffn_dim=20, mel_bins=10)
    return replace(config, **{"max_frames": 25, **changes})


def tiny_whispers() -> dict[str, EncoderConfig]:
    """Tiny Whisper encoders with both kinds of windows, two seconds long."""
    return {
        "whisper": tiny_whisper(max_frames=100),
        "whisper_padded": tiny_whisper(max_frames=100, window="padded"),
    }


def tiny_peculiar() -> dict[str, EncoderConfig]:
    """Architectures and state rules of published compressed models that no public dense model has."""
    base, large = (tiny_families()[f"hubert_{size}"] for size in ("base", "large"))
    no_bias = {"relative_position": False, "gated_position": False}
    return {
        "scaled_large": tiny_large(channel_scale=True, states=StateRule(first="projection", final_norm=False)),
        "scaled_base": tiny_base(channel_scale=True, states=StateRule(first="projection"), **no_bias),
        "without_norm": replace(base, projection_norm=False, states=StateRule(first="none")),
        "mapped": replace(
            base,
            conv_layers=(*base.conv_layers[:-1], (base.embed_dim, *base.conv_layers[-1][1:])),
            equal_projection=True,
            states=StateRule(first="none", heads=StateHeads(kind="maps", dim=20)),
        ),
        "predicting": replace(
            large,
            projection_norm=False,
            states=StateRule(
                first="projection",
                final_norm=False,
                heads=StateHeads(kind="predictions", number=2, inner_dim=12, dim=large.embed_dim),
            ),
        ),
        "scaled_without_norm": replace(large, projection_norm=False, channel_scale=True),
    }


@torch.no_grad()
def random_encoder(config: EncoderConfig, *, seed: int, spec: CompactSpec | None = None) -> SpeechEncoder:
    """An encoder in evaluation mode whose random weights are far from their initialisation.

    Scores, gates, position bias, biases and norms all have a spread of about 1, so that any error
    shows in the output; freshly initialised, attention is nearly uniform and the biases are 0.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(parameter: Tensor, std: float) -> None:
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    with torch.random.fork_rng(devices=[]):  # weights that stay as initialised are random too
        torch.manual_seed(seed)
        encoder = SpeechEncoder(config, spec).eval()
    for module in encoder.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            if module.weight.numel():
                normal(module.weight, 1.3 * module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                normal(module.bias, 0.3)
        elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            normal(module.weight, 0.3)
            module.weight.add_(1)
            normal(module.bias, 0.3)
        elif isinstance(module, nn.Embedding):
            normal(module.weight, 1.0)
    for name, parameter in encoder.named_parameters():
        if name.endswith("gate.scale"):
            normal(parameter, 1.0)
        if name.endswith("channel_scale"):
            normal(parameter, 0.3)
            parameter.add_(1)
    return encoder


def random_spec(config: EncoderConfig, *, seed: int, channels: bool = False, positions: bool = False) -> CompactSpec:
    """A ragged structure: sublayers, heads and dimensions are removed at random.

    On request also channels of the CNN, and groups of a single positional convolution (possibly all).

    Heads without query/key dimensions occur, and sublayers with only their output bias.
    """
    generator = torch.Generator().manual_seed(seed)

    def some(size: int) -> tuple[int, ...]:
        rate = torch.rand((), generator=generator)
        return tuple(torch.nonzero(torch.rand(size, generator=generator) < rate).flatten().tolist())

    def likely() -> bool:
        return bool(torch.rand((), generator=generator) < 0.8)

    layers = []
    for _ in range(config.num_layers):
        attention, feed_forward = likely(), likely()
        heads = [HeadSpec(index=h, qk=some(config.head_dim), vo=some(config.head_dim)) for h in some(config.num_heads)]
        layers.append(
            LayerSpec(
                attention=attention,
                heads=tuple(head for head in heads if head.vo) if attention else (),
                feed_forward=feed_forward,
                ffn=some(config.ffn_dim) if feed_forward else (),
            )
        )
    kept = _some_channels(config, some) if channels else None
    groups = some(config.pos_conv_groups) if positions and config.has_position_groups else None
    return CompactSpec(layers=tuple(layers), channels=kept, position_groups=groups)


def _some_channels(config: EncoderConfig, some: Callable[[int], tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    sizes = CompactSpec.dense(config).conv_mask_sizes(config)
    kept = [some(size) or (0,) for size in sizes[:-1]]  # of a layer of the CNN, one channel must stay
    last = some(sizes[-1]) or (0,) if sizes[-1] else tuple(range(config.embed_dim))
    return (*kept, last)


def _mask(size: int, generator: torch.Generator) -> Tensor:
    rate = torch.rand((), generator=generator)
    values = 1 - 0.8 * torch.rand(size, generator=generator)
    return values * (torch.rand(size, generator=generator) < rate)


def random_conv_masks(spec: CompactSpec, config: EncoderConfig, *, seed: int) -> Masks:
    """As `random_masks`, for the CNN's channels; each layer keeps at least one."""
    generator = torch.Generator().manual_seed(seed)
    table = SlotTable.of(spec, ("conv",), config)
    masks = Masks.of({slot: _mask(size, generator) for slot, size in table.sizes.items()})
    for z in masks.values():
        z[int(torch.randint(len(z), (), generator=generator))] = 0.7
    return masks


def random_masks(
    spec: CompactSpec,
    *,
    seed: int,
    kinds: tuple[str, ...] = ("mha", "qk", "vo", "ffn", "int"),
    shape: EncoderConfig | None = None,
) -> Masks:
    """Soft masks for an encoder of structure `spec`: values in (0.2, 1], a random share of them 0 in each slot."""
    generator = torch.Generator().manual_seed(seed)
    return Masks.of({slot: _mask(size, generator) for slot, size in SlotTable.of(spec, kinds, shape).sizes.items()})
