"""Configurations of the public models, and the translation of their own configuration formats."""

import ast
from dataclasses import replace

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.models.spec import EncoderConfig


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


def wavlm_embedded() -> EncoderConfig:
    """The embedded teacher's shape: WavLM Base's architecture, narrower and shallower, same kernels and strides."""
    return embedded_size("wavlm")


def embedded_size(family: str) -> EncoderConfig:
    """A family's Base architecture in the embedded teacher's size (random teachers have it)."""
    bases = {"wavlm": wavlm_base, "hubert": hubert_base, "wav2vec2": wav2vec2_base, "data2vec": data2vec_base}
    return replace(
        bases[family](),
        conv_layers=tuple((96, kernel, stride) for _, kernel, stride in wavlm_base().conv_layers),
        num_layers=6,
        embed_dim=256,
        num_heads=4,
        ffn_dim=1024,
    )


# Microsoft's `cfg` key -> our field. The other keys of `cfg` configure pre-training (masking, layer drop) or are
# checked below.
_OFFICIAL_FIELDS = {
    "encoder_layers": "num_layers",
    "encoder_embed_dim": "embed_dim",
    "encoder_attention_heads": "num_heads",
    "encoder_ffn_embed_dim": "ffn_dim",
    "layer_norm_first": "norm_first",
    "conv_bias": "conv_bias",
    "conv_pos": "pos_conv_kernel",
    "conv_pos_groups": "pos_conv_groups",
    "relative_position_embedding": "relative_position",
    "num_buckets": "num_buckets",
    "max_distance": "max_distance",
    "gru_rel_pos": "gated_position",
    "normalize": "normalize_waveform",
}
EXTRACTOR_MODES = {"default": "group_norm", "layer_norm": "layer_norm"}


def from_official(cfg: dict, where: str) -> EncoderConfig:
    """Translate the `cfg` of Microsoft's WavLM checkpoint (defaults as in s3prl's `WavLMConfig`).

    Dropout and `feature_grad_mult` are left at ours: they belong to the training at hand, not to the model.

    Raises:
        UserError: `cfg` describes an architecture that this encoder is not.
    """
    defaults = {"relative_position_embedding": False, "gru_rel_pos": False, "max_distance": 1280}
    fields = {ours: cfg[theirs] for theirs, ours in _OFFICIAL_FIELDS.items() if theirs in cfg}
    for theirs, value in defaults.items():
        fields.setdefault(_OFFICIAL_FIELDS[theirs], value)
    if cfg.get("activation_fn", "gelu") != "gelu":
        raise UserError(f"{where}: `activation_fn` must be gelu, but is {cfg['activation_fn']!r}.")
    mode = cfg.get("extractor_mode", "default")
    if mode not in EXTRACTOR_MODES:
        raise UserError(f"{where}: `extractor_mode` must be one of {sorted(EXTRACTOR_MODES)}, but is {mode!r}.")
    if "conv_feature_layers" in cfg:
        fields["conv_layers"] = parse_conv_layers(cfg["conv_feature_layers"], where)
    return from_dict(EncoderConfig, {**fields, "extractor_mode": EXTRACTOR_MODES[mode]}, where)


def to_official(config: EncoderConfig) -> dict:
    """The `cfg` of Microsoft's checkpoint format for `config`."""
    cfg = {theirs: getattr(config, ours) for theirs, ours in _OFFICIAL_FIELDS.items()}
    modes = {ours: theirs for theirs, ours in EXTRACTOR_MODES.items()}
    return {
        **cfg,
        "extractor_mode": modes[config.extractor_mode],
        "conv_feature_layers": str([tuple(layer) for layer in config.conv_layers]),
        "activation_fn": "gelu",
        "encoder_layerdrop": 0.0,
    }


_MAX_CONV_LAYERS = 100


def parse_conv_layers(text: str, where: str) -> tuple[tuple[int, int, int], ...]:
    """Read fairseq's notation, `[(512,10,5)] + [(512,3,2)] * 4`, without evaluating it as code."""

    def read(node: ast.AST) -> list:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            layers = read(node.left) + read(node.right)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            times = ast.literal_eval(node.right)
            if times not in range(_MAX_CONV_LAYERS + 1):  # before memory is asked for
                raise ValueError
            layers = read(node.left) * times
        else:
            layers = list(ast.literal_eval(node))
        if len(layers) > _MAX_CONV_LAYERS:
            raise ValueError
        return layers

    try:
        layers = tuple(tuple(layer) for layer in read(ast.parse(text, mode="eval").body))
        if not layers or any(len(layer) != 3 or any(type(n) is not int or n < 1 for n in layer) for layer in layers):
            raise ValueError
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise UserError(
            f"{where}: `conv_feature_layers` must be a list of (channels, kernel, stride), "
            f"at most {_MAX_CONV_LAYERS}, but is {str(text)[:200]!r}."
        ) from None
    return layers
