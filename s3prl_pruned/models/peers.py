"""Structures of published compressed encoders, as far as their authors' own files or papers give them exactly.

Facts only: sizes, layers, heads. There are no weights here: a structure is timed and counted with random ones
(`timing.py --peers`). Structures that are not known exactly are left out; nothing is guessed.
"""

from dataclasses import dataclass, replace

from s3prl_pruned.config import UserError
from s3prl_pruned.models import families
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec, HeadSpec, LayerSpec
from s3prl_pruned.models.state_rule import StateHeads, StateRule

_DIARIZEN = "Han et al. 2025; DiariZen's wavlm_config.py"
_DISTILHUBERT = "Chang et al. 2022; the `distiller` configuration of s3prl"
_LIGHTHUBERT = "Wang R. et al. 2022; LightHuBERT's code"
_WITHOUT_FINAL_NORM = StateRule(final_norm=False)

DIARIZEN_HEADS = {
    "wavlm_base_s80_md": (
        (1, 6), (5, 7, 8), (0, 3, 9), (0, 1, 4, 8, 11), (6, 8), (0,), (7, 8, 10, 11), (0, 1, 4, 8), (), (),
        (4, 7), (5,),
    ),
    "wavlm_large_s80_md": (
        (1, 2, 4, 5, 6), (9, 10, 14), (0, 1, 2, 4, 5, 7), (1, 4, 7, 12, 13, 14), (0, 2, 3, 4, 13), (1, 7, 13, 14, 15),
        (11, 13, 15), (2, 3, 4, 8, 15), (2, 5, 6, 15), (), (0, 1), (1, 3, 5, 12), (), (4, 7, 11), (6, 9), (11,), (), (),
        (14,), (5, 15), (0, 2, 8, 11, 13, 15), (0, 1, 3, 4, 5, 6, 7, 10, 13), (0, 1, 3, 6, 7, 9, 10, 11, 12, 14),
        (1, 2, 3, 4, 7, 13, 14, 15),
    ),
}  # fmt: skip
"""Heads that are kept, by layer, in the encoders of DiariZen's published diarizers (its `wavlm_config.py`)."""


@dataclass(frozen=True, kw_only=True)
class PeerStructure:
    """A published encoder."""

    title: str
    """As its authors call it."""
    source: str
    """The paper, and the file that gives the structure."""
    config: EncoderConfig
    spec: CompactSpec
    printed_millions: float | None = None
    """Number of parameters that its authors publish, in millions; None if they publish none."""


def peer_structure(name: str) -> PeerStructure:
    """The structure of a published encoder, such as `distilhubert`.

    Raises:
        UserError: there is none of this name.
    """
    if name not in _BUILDERS:
        raise UserError(f"the published structure must be one of {', '.join(PEERS)}, but is {name!r}.")
    return _BUILDERS[name]()


def shape_of_published(name: str) -> tuple[EncoderConfig, CompactSpec]:
    """The configuration and structure of a compressed encoder (`PEERS`) or of a dense public one (`families.named`)."""
    if name in PEERS:
        peer = peer_structure(name)
        return peer.config, peer.spec
    config = families.named(name)
    return config, CompactSpec.dense(config)


def _distilhubert() -> PeerStructure:
    """Its prediction heads are removed after distillation, and the published size is without them."""
    return _dense("DistilHuBERT", _DISTILHUBERT, _distiller(heads=None), printed_millions=23.49)


def _distilhubert_predictions() -> PeerStructure:
    """What s3prl's upstream runs: with the three predictions behind its last layer."""
    heads = StateHeads(kind="predictions", number=3, inner_dim=768, dim=768)
    return _dense("DistilHuBERT with its predictions", _DISTILHUBERT, _distiller(heads))


def _distiller(heads: StateHeads | None) -> EncoderConfig:
    states = StateRule(first="projection", final_norm=False, heads=heads)
    return replace(
        families.hubert_base(), num_layers=2, projection_norm=False, padding_rule="convolution", states=states
    )


def _lighthubert_small() -> PeerStructure:
    return _dense("LightHuBERT small", _LIGHTHUBERT, _lighthubert(384), printed_millions=27.0)


def _lighthubert_base() -> PeerStructure:
    return _dense("LightHuBERT base", _LIGHTHUBERT, _lighthubert(640))


def _student_hubert() -> PeerStructure:
    return _dense("LightHuBERT's student_hubert, 512", _LIGHTHUBERT, _lighthubert(512))


def _lighthubert(embed_dim: int) -> EncoderConfig:
    """Heads of 64 dimensions, a feed-forward four times as wide; waveforms are normalised."""
    states = StateRule(first="projection", final_norm=False)
    config = replace(families.hubert_base(), normalize_waveform=True, states=states)
    return replace(config, embed_dim=embed_dim, num_heads=embed_dim // 64, ffn_dim=4 * embed_dim)


def _maskhubert() -> PeerStructure:
    convolutions = ((128, 10, 5), (256, 1, 1), *[(256, 3, 2)] * 4, (480, 1, 1), *[(480, 2, 2)] * 2)
    # its hidden states are a linear map of each layer's output, and the printed size is with these
    states = StateRule(first="none", final_norm=False, heads=StateHeads(kind="maps", dim=768))
    config = replace(families.hubert_base(), conv_layers=convolutions, states=states)
    config = replace(config, embed_dim=480, num_heads=12, ffn_dim=640)
    source = "Jang et al. 2023; ARMHuBERT's maskhubert-960.yaml"
    return _dense("MaskHuBERT", source, config, printed_millions=26.64)


def _diarizen_base_s80() -> PeerStructure:
    config = replace(families.wavlm_base(), channel_scale=True, states=_WITHOUT_FINAL_NORM)
    spec = whole_heads(
        config,
        channels=(90, 161, 173, 181, 351, 155, 137),
        heads=DIARIZEN_HEADS["wavlm_base_s80_md"],
        ffn=(666, 660, 649, 1080, 237, 299, 437, 573, 53, 80, 211, 334),
    )
    title = "DiariZen, WavLM Base+, 80 %"
    return PeerStructure(title=title, source=_DIARIZEN, config=config, spec=spec, printed_millions=18.8)


def _diarizen_large_s80() -> PeerStructure:
    config = replace(families.wavlm_large(), channel_scale=True, states=_WITHOUT_FINAL_NORM)
    spec = whole_heads(
        config,
        channels=(512, 153, 224, 255, 302, 368, 211),
        heads=DIARIZEN_HEADS["wavlm_large_s80_md"],
        ffn=(
            1092, 925, 759, 646, 745, 615, 684, 958, 286, 294, 406, 377, 463, 542, 298, 236, 96, 104, 134, 211, 473,
            1011, 1770, 1316,
        ),
    )  # fmt: skip
    return PeerStructure(title="DiariZen, WavLM Large, 80 %", source=_DIARIZEN, config=config, spec=spec)


def _dense(title: str, source: str, config: EncoderConfig, printed_millions: float | None = None) -> PeerStructure:
    """A small dense encoder: nothing was cut out of it."""
    spec = CompactSpec.dense(config)
    return PeerStructure(title=title, source=source, config=config, spec=spec, printed_millions=printed_millions)


def whole_heads(
    config: EncoderConfig, *, channels: tuple[int, ...], heads: tuple[tuple[int, ...], ...], ffn: tuple[int, ...]
) -> CompactSpec:
    """The structure of a model whose heads were kept or removed whole.

    Args:
        config: the dense shape.
        channels: number of channels kept in each layer of the CNN.
        heads: indices of the heads kept in each Transformer layer; an attention without heads is removed.
        ffn: number of intermediate dimensions kept in each Transformer layer.
    """
    dims = tuple(range(config.head_dim))
    layers = tuple(
        LayerSpec(
            attention=bool(kept),
            heads=tuple(HeadSpec(index=index, qk=dims, vo=dims) for index in kept),
            feed_forward=True,
            ffn=tuple(range(width)),
        )
        for kept, width in zip(heads, ffn, strict=True)
    )
    return CompactSpec(layers=layers, channels=tuple(tuple(range(count)) for count in channels))


_BUILDERS = {
    "distilhubert": _distilhubert,
    "distilhubert_predictions": _distilhubert_predictions,
    "lighthubert_small": _lighthubert_small,
    "lighthubert_base": _lighthubert_base,
    "student_hubert": _student_hubert,
    "maskhubert": _maskhubert,
    "diarizen_base_s80": _diarizen_base_s80,
    "diarizen_large_s80": _diarizen_large_s80,
}
PEERS = tuple(_BUILDERS)
"""Names of the structures that are known."""
