"""How fairseq (and s3prl's conversions of it) and Hugging Face write an encoder's configuration, in both directions."""

import math

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.models.families import EXTRACTOR_MODES, parse_conv_layers
from s3prl_pruned.models.spec import EncoderConfig

# What each family is called elsewhere, and fields that the name implies.
_FAIRSEQ_NAMES = {"wav2vec2": "wav2vec2", "hubert": "hubert", "data2vec_audio": "data2vec"}
_HUGGINGFACE_NAMES = {"wav2vec2": "wav2vec2", "hubert": "hubert", "data2vec-audio": "data2vec", "wavlm": "wavlm"}
HUGGINGFACE_MODELS = {
    "wav2vec2": "Wav2Vec2Model",
    "hubert": "HubertModel",
    "data2vec": "Data2VecAudioModel",
    "wavlm": "WavLMModel",
}
_RULES = {"wavlm": "chunks", "hubert": "chunks", "wav2vec2": "convolution", "data2vec": "convolution"}

_FAIRSEQ_FIELDS = {
    "encoder_layers": "num_layers",
    "encoder_embed_dim": "embed_dim",
    "encoder_attention_heads": "num_heads",
    "encoder_ffn_embed_dim": "ffn_dim",
    "layer_norm_first": "norm_first",
    "conv_bias": "conv_bias",
    "conv_pos_groups": "pos_conv_groups",
}
# Keys whose other values mean an architecture that this encoder is not: (the value that it is; fairseq's default).
_FAIRSEQ_FIXED = {
    "activation_fn": "gelu",
    "layer_type": "transformer",
    "quantize_input": False,
    "crop_seq_to_multiple": 1,
}
_HUGGINGFACE_FIELDS = {
    "num_hidden_layers": "num_layers",
    "hidden_size": "embed_dim",
    "num_attention_heads": "num_heads",
    "intermediate_size": "ffn_dim",
    "conv_bias": "conv_bias",
    "num_conv_pos_embedding_groups": "pos_conv_groups",
}
_HUGGINGFACE_FIXED = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "add_adapter": False,
    "adapter_attn_dim": None,
}


def fairseq_family(model_cfg: dict, where: str) -> str:
    """The family that a fairseq configuration declares.

    Raises:
        UserError: it is another model, or does not say.
    """
    name = model_cfg.get("_name") or model_cfg.get("arch")
    if name is None:  # s3prl keeps the section without its name; these keys are one family's own
        marks = {"average_top_k_layers": "data2vec_audio", "label_rate": "hubert", "quantize_targets": "wav2vec2"}
        name = next((name for key, name in marks.items() if key in model_cfg), None)
    if name not in _FAIRSEQ_NAMES:
        raise UserError(
            f"{where}: declares the fairseq model {name!r}; {sorted(_FAIRSEQ_NAMES)} can be read. "
            "Take the pre-trained checkpoint, not a fine-tuned one."
        )
    return _FAIRSEQ_NAMES[name]


def from_fairseq(model_cfg: dict, task_cfg: dict, where: str) -> EncoderConfig:
    """Translate fairseq's `model` and `task` sections (defaults as in fairseq's dataclasses).

    Raises:
        UserError: an architecture that this encoder is not.
    """
    family = fairseq_family(model_cfg, where)
    _check_fixed(model_cfg, _FAIRSEQ_FIXED, where)
    fields = {ours: model_cfg[theirs] for theirs, ours in _FAIRSEQ_FIELDS.items() if model_cfg.get(theirs) is not None}
    mode = model_cfg.get("extractor_mode") or "default"
    if mode not in EXTRACTOR_MODES:
        raise UserError(f"{where}: `extractor_mode` must be one of {sorted(EXTRACTOR_MODES)}, but is {mode!r}.")
    if "conv_feature_layers" in model_cfg:
        fields["conv_layers"] = parse_conv_layers(model_cfg["conv_feature_layers"], where)
    depth, kernel = model_cfg.get("pos_conv_depth") or 1, model_cfg.get("conv_pos") or 128
    if type(depth) is not int or type(kernel) is not int or depth < 1:
        raise UserError(f"{where}: `pos_conv_depth` and `conv_pos` must be whole numbers, but are {depth!r} and {kernel!r}.")
    fields["pos_conv_depth"] = depth
    fields["pos_conv_kernel"] = max(3, kernel // depth) if depth > 1 else kernel
    fields["normalize_waveform"] = bool(task_cfg.get("normalize", False))
    return from_dict(EncoderConfig, {**_family_fields(family), **fields, "extractor_mode": EXTRACTOR_MODES[mode]}, where)


def to_fairseq(config: EncoderConfig) -> tuple[dict, dict]:
    """fairseq's `model` and `task` sections for `config`; of pre-training's settings only what building needs.

    Raises:
        UserError: fairseq has no such model.
    """
    names = {ours: theirs for theirs, ours in _FAIRSEQ_NAMES.items()}
    if config.family not in names:
        raise UserError(f"fairseq has no {config.family}: Microsoft's format is the one for it.")
    model = {theirs: getattr(config, ours) for theirs, ours in _FAIRSEQ_FIELDS.items()}
    modes = {ours: theirs for theirs, ours in EXTRACTOR_MODES.items()}
    model |= {
        "_name": names[config.family],
        "extractor_mode": modes[config.extractor_mode],
        "conv_feature_layers": str([tuple(layer) for layer in config.conv_layers]),
        "conv_pos": config.pos_conv_kernel * config.pos_conv_depth,
        "final_dim": 1,  # the pre-training heads that building needs are written as small as they can be
    }
    if config.pos_conv_depth > 1:
        model["pos_conv_depth"] = config.pos_conv_depth
    if config.family == "hubert":
        model["label_rate"] = 50.0
    return model, {"_name": "hubert_pretraining" if config.family == "hubert" else "audio_pretraining", "normalize": config.normalize_waveform}  # fmt: skip


def from_huggingface(cfg: dict, preprocessor: dict | None, where: str) -> EncoderConfig:
    """Translate a `config.json` of transformers (defaults as in its configuration classes).

    Args:
        cfg: of `config.json`.
        preprocessor: of `preprocessor_config.json`, whose `do_normalize` says whether waveforms are normalised; None
            where there is none: then they are if and only if the feature extractor uses LayerNorm, as in public models.
        where: the name of the file in messages.

    Raises:
        UserError: another architecture.
    """
    kind = cfg.get("model_type")
    if kind not in _HUGGINGFACE_NAMES:
        raise UserError(f"{where}: `model_type` must be one of {sorted(_HUGGINGFACE_NAMES)}, but is {kind!r}.")
    family = _HUGGINGFACE_NAMES[kind]
    _check_fixed(cfg, _HUGGINGFACE_FIXED, where)
    fields = {ours: cfg[theirs] for theirs, ours in _HUGGINGFACE_FIELDS.items() if theirs in cfg}
    if "conv_dim" in cfg:
        layers = [cfg["conv_dim"], cfg.get("conv_kernel"), cfg.get("conv_stride")]
        if not all(isinstance(part, list) and len(part) == len(layers[0]) for part in layers):
            raise UserError(f"{where}: `conv_dim`, `conv_kernel` and `conv_stride` must be lists of one length, but are {layers}.")
        fields["conv_layers"] = [list(layer) for layer in zip(*layers)]
    if family == "data2vec":
        norm, fields["norm_first"] = "layer", False
        fields["pos_conv_kernel"] = cfg.get("conv_pos_kernel_size", 19)
        fields["pos_conv_depth"] = cfg.get("num_conv_pos_embeddings", 5)
    else:
        norm, fields["norm_first"] = cfg.get("feat_extract_norm", "group"), cfg.get("do_stable_layer_norm", False)
        fields["pos_conv_kernel"] = cfg.get("num_conv_pos_embeddings", 128)
    if family == "wavlm":
        fields["num_buckets"], fields["max_distance"] = cfg.get("num_buckets", 320), cfg.get("max_bucket_distance", 800)
    if norm not in ("group", "layer"):
        raise UserError(f"{where}: `feat_extract_norm` must be group or layer, but is {norm!r}.")
    normalize = norm == "layer" if preprocessor is None else bool(preprocessor.get("do_normalize", True))
    fields |= {"extractor_mode": f"{norm}_norm", "normalize_waveform": normalize}
    return from_dict(EncoderConfig, {**_family_fields(family), **fields}, where)


def to_huggingface(config: EncoderConfig) -> tuple[dict, dict]:
    """transformers' `config.json` and `preprocessor_config.json` for `config`.

    Raises:
        UserError: transformers' model of this family cannot be built like this.
    """
    wavlm_like = config.relative_position and config.gated_position
    data2vec_like = config.pos_conv_depth > 1 and config.extractor_mode == "layer_norm" and not config.norm_first
    if wavlm_like != (config.family == "wavlm") or (config.family == "data2vec" and not data2vec_like):
        raise UserError(f"transformers' {HUGGINGFACE_MODELS[config.family]} is not built like this encoder; no such folder can be written.")  # fmt: skip
    if config.conv_layers[-1][0] == config.embed_dim:
        raise UserError(
            "transformers always projects the CNN's output, and this encoder, whose widths are equal, has no projection."
        )
    kind = {ours: theirs for theirs, ours in _HUGGINGFACE_NAMES.items()}[config.family]
    channels, kernels, strides = zip(*config.conv_layers)
    cfg = {
        "model_type": kind,
        "architectures": [HUGGINGFACE_MODELS[config.family]],
        **{theirs: getattr(config, ours) for theirs, ours in _HUGGINGFACE_FIELDS.items()},
        **_HUGGINGFACE_FIXED,
        "conv_dim": list(channels),
        "conv_kernel": list(kernels),
        "conv_stride": list(strides),
        "num_feat_extract_layers": len(channels),
        "mask_time_prob": 0.05,  # over 0 means: the file holds the mask embedding
    }
    if config.family == "data2vec":
        cfg |= {"conv_pos_kernel_size": config.pos_conv_kernel, "num_conv_pos_embeddings": config.pos_conv_depth}
    else:
        cfg |= {
            "num_conv_pos_embeddings": config.pos_conv_kernel,
            "feat_extract_norm": config.extractor_mode.removesuffix("_norm"),
            "do_stable_layer_norm": config.norm_first,
        }
    if config.family == "wavlm":
        cfg |= {"num_buckets": config.num_buckets, "max_bucket_distance": config.max_distance}
    return cfg, preprocessor_config(config)


def preprocessor_config(config: EncoderConfig) -> dict:
    """transformers' `preprocessor_config.json`: how waveforms are prepared."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": 16000,
        "padding_value": 0.0,
        "padding_side": "right",
        "do_normalize": config.normalize_waveform,
        "return_attention_mask": True,
    }


def _family_fields(family: str) -> dict:
    """Fields that a family has and its configuration format does not spell out."""
    wavlm = family == "wavlm"
    return {"family": family, "padding_rule": _RULES[family], "relative_position": wavlm, "gated_position": wavlm}


def _check_fixed(cfg: dict, fixed: dict, where: str) -> None:
    for key, value in fixed.items():
        found = cfg.get(key, value)
        same = math.isclose(found, value) if isinstance(value, float) and isinstance(found, (int, float)) else found == value
        if not same and not (found is None and key in ("layer_type", "crop_seq_to_multiple")):
            raise UserError(f"{where}: `{key}` must be {value!r} for this encoder, but is {found!r}.")
