"""Configurations of the public models."""

from dataclasses import replace

from s3prl_pruned.config import UserError
from s3prl_pruned.models.shape import FAMILIES, EncoderConfig


def wavlm_base() -> EncoderConfig:
    """WavLM Base and Base+ (Chen et al. 2022): 94,381,936 parameters."""
    return EncoderConfig()


def wavlm_large() -> EncoderConfig:
    """WavLM Large (Chen et al. 2022)."""
    return replace(
        wavlm_base(),
        extractor_mode="layer_norm",
        num_layers=24,
        embed_dim=1024,
        num_heads=16,
        ffn_dim=4096,
        norm_first=True,
        normalize_waveform=True,
    )


def hubert_base() -> EncoderConfig:
    """HuBERT Base (Hsu et al. 2021): WavLM Base without position bias; 94,371,712 parameters."""
    return replace(wavlm_base(), family="hubert", relative_position=False, gated_position=False)


def hubert_large() -> EncoderConfig:
    """HuBERT Large (Hsu et al. 2021). Hugging Face's copy declares biases in the CNN, fairseq's has none."""
    return replace(wavlm_large(), family="hubert", relative_position=False, gated_position=False)


def wav2vec2_base() -> EncoderConfig:
    """wav2vec 2.0 Base (Baevski et al. 2020): 94,371,712 parameters."""
    return replace(hubert_base(), family="wav2vec2", padding_rule="convolution")


def wav2vec2_large() -> EncoderConfig:
    """wav2vec 2.0 Large of LV-60k (fairseq's `wav2vec_vox_new`): LayerNorm before each sublayer, biases in the CNN."""
    return replace(hubert_large(), family="wav2vec2", padding_rule="convolution", conv_bias=True)


def wav2vec2_large_960() -> EncoderConfig:
    """wav2vec 2.0 Large of LibriSpeech (fairseq's `libri960_big`): Base's arrangement in Large's size."""
    size = {name: getattr(wav2vec2_large(), name) for name in ("num_layers", "embed_dim", "num_heads", "ffn_dim")}
    return replace(wav2vec2_base(), **size)


def data2vec_base() -> EncoderConfig:
    """data2vec-audio Base (Baevski et al. 2022): LayerNorm in the CNN, five stacked positional convolutions."""
    return replace(
        wav2vec2_base(),
        family="data2vec",
        extractor_mode="layer_norm",
        pos_conv_kernel=19,
        pos_conv_depth=5,
        normalize_waveform=True,
    )


def data2vec_large() -> EncoderConfig:
    """data2vec-audio Large: Base's arrangement (LayerNorm after each sublayer) in Large's size."""
    size = {name: getattr(wav2vec2_large(), name) for name in ("num_layers", "embed_dim", "num_heads", "ffn_dim")}
    return replace(data2vec_base(), **size)


def whisper(
    *, num_layers: int, embed_dim: int, num_heads: int, ffn_dim: int | None = None, mel_bins: int = 80
) -> EncoderConfig:
    """Whisper's encoder (Radford et al. 2023) in one of its sizes; windows of the utterance's own length.

    Args:
        num_layers: L.
        embed_dim: D.
        num_heads: H.
        ffn_dim: F; None for 4 D, which all public models have.
        mel_bins: 80, or 128 of large-v3.
    """
    return EncoderConfig(
        family="whisper",
        front_end="log_mel",
        mel_bins=mel_bins,
        conv_layers=((embed_dim, 3, 1), (embed_dim, 3, 2)),
        extractor_mode="none",
        conv_bias=True,
        projection_norm=False,
        positions="fixed",
        max_frames=1500,
        num_layers=num_layers,
        embed_dim=embed_dim,
        num_heads=num_heads,
        ffn_dim=4 * embed_dim if ffn_dim is None else ffn_dim,
        norm_first=True,
        key_bias=False,
        relative_position=False,
        gated_position=False,
        padding_rule="convolution",
    )


def whisper_tiny() -> EncoderConfig:
    """Whisper tiny's and tiny.en's encoder: 7,632,384 parameters, and the mask embedding, which is ours."""
    return whisper(num_layers=4, embed_dim=384, num_heads=6)


def whisper_base() -> EncoderConfig:
    """Whisper base's and base.en's encoder."""
    return whisper(num_layers=6, embed_dim=512, num_heads=8)


def whisper_small() -> EncoderConfig:
    """Whisper small's and small.en's encoder."""
    return whisper(num_layers=12, embed_dim=768, num_heads=12)


def whisper_medium() -> EncoderConfig:
    """Whisper medium's and medium.en's encoder."""
    return whisper(num_layers=24, embed_dim=1024, num_heads=16)


def whisper_large() -> EncoderConfig:
    """Whisper large's and large-v2's encoder."""
    return whisper(num_layers=32, embed_dim=1280, num_heads=20)


def whisper_large_v3() -> EncoderConfig:
    """Whisper large-v3's and turbo's encoder."""
    return replace(whisper_large(), mel_bins=128)


def wavlm_embedded() -> EncoderConfig:
    """The embedded teacher's shape: WavLM Base's architecture, narrower and shallower, same kernels and strides."""
    return embedded_size("wavlm")


def embedded_size(family: str) -> EncoderConfig:
    """A family's Base architecture in the embedded teacher's size (for random teachers)."""
    bases = {
        "wavlm": wavlm_base,
        "hubert": hubert_base,
        "wav2vec2": wav2vec2_base,
        "data2vec": data2vec_base,
        "whisper": whisper_base,
    }
    base = bases[family]()
    channels = 96 if base.has_projection else 256
    return replace(
        base,
        conv_layers=tuple((channels, kernel, stride) for _, kernel, stride in base.conv_layers),
        num_layers=6,
        embed_dim=256,
        num_heads=4,
        ffn_dim=1024,
    )


def named(name: str) -> EncoderConfig:
    """The shape of a public model, such as `hubert_base`: what the builder of this name returns.

    Raises:
        UserError: there is no such builder.
    """
    prefixes = tuple(f"{family}_" for family in FAMILIES)
    builders = {key: value for key, value in globals().items() if key.startswith(prefixes) and callable(value)}
    if name not in builders:
        raise UserError(f"the shape must be one of {sorted(builders)}, but is {name!r}.")
    return builders[name]()
