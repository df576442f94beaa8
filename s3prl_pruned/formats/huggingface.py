"""Folders for transformers: a dense encoder in transformers' own format, a pruned one in ours, with its code.

The second is also this project's own folder, and is read as such (`folder.py`).
"""

import json
from pathlib import Path

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.formats import folder
from s3prl_pruned.formats.configs import check_fixed, family_fields, peculiarities
from s3prl_pruned.formats.format import (
    CONFIG,
    SAFETENSORS,
    Format,
    LoadedModel,
    ReadOptions,
    Source,
    WriteOptions,
    dense_model,
    taken_apart,
)
from s3prl_pruned.formats.huggingface_code import PREPROCESSOR, preprocessor_config, save_huggingface
from s3prl_pruned.formats.huggingface_weights import read_weights, weight_files
from s3prl_pruned.formats.keys import NEW_WEIGHT_NORM, KeyTable
from s3prl_pruned.formats.tensor_files import write_safetensors, written_whole
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec

_CNN, _LAYER = "feature_extractor.conv_layers.{c}.", "encoder.layers.{i}."

KEYS = KeyTable(
    name="huggingface",
    parts={
        "mask_embedding": "masked_spec_embed",
        "feature_extractor.layers.{c}.conv.": _CNN + "conv.",
        "feature_extractor.layers.{c}.norm.": _CNN + "layer_norm.",
        "feature_projection.layer_norm.": "feature_projection.layer_norm.",
        "feature_projection.projection.": "feature_projection.projection.",
        "positional_convolution.conv.": "encoder.pos_conv_embed.conv.",
        "positional_convolution.convs.{p}.": "encoder.pos_conv_embed.layers.{p}.conv.",
        "relative_position.embedding.": "encoder.layers.0.attention.rel_attn_embed.",
        "layers.{i}.attention.gate.projection.": _LAYER + "attention.gru_rel_pos_linear.",
        "layers.{i}.attention.gate.scale": _LAYER + "attention.gru_rel_pos_const",
        "layers.{i}.attention.q_proj.": _LAYER + "attention.q_proj.",
        "layers.{i}.attention.k_proj.": _LAYER + "attention.k_proj.",
        "layers.{i}.attention.v_proj.": _LAYER + "attention.v_proj.",
        "layers.{i}.attention.out_proj.": _LAYER + "attention.out_proj.",
        "layers.{i}.attention_layer_norm.": _LAYER + "layer_norm.",
        "layers.{i}.feed_forward.fc1.": _LAYER + "feed_forward.intermediate_dense.",
        "layers.{i}.feed_forward.fc2.": _LAYER + "feed_forward.output_dense.",
        "layers.{i}.final_layer_norm.": _LAYER + "final_layer_norm.",
        "layer_norm.": "encoder.layer_norm.",
    },
    weight_norm=NEW_WEIGHT_NORM,
    heads=("quantizer.", "project_hid.", "project_q."),
)

_NAMES = {"wav2vec2": "wav2vec2", "hubert": "hubert", "data2vec-audio": "data2vec", "wavlm": "wavlm"}
"""`model_type` -> our family."""
_MODELS = {
    "wav2vec2": "Wav2Vec2Model",
    "hubert": "HubertModel",
    "data2vec": "Data2VecAudioModel",
    "wavlm": "WavLMModel",
}
_FIELDS = {
    "num_hidden_layers": "num_layers",
    "hidden_size": "embed_dim",
    "num_attention_heads": "num_heads",
    "intermediate_size": "ffn_dim",
    "conv_bias": "conv_bias",
    "num_conv_pos_embedding_groups": "pos_conv_groups",
}
_FIXED = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "add_adapter": False,
    "adapter_attn_dim": None,
}

PROCESSOR = "processor_config.json"
_FIXED_OF_EXTRACTOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "sampling_rate": 16_000,
    "feature_size": 1,
    "padding_value": 0.0,
}
_WITHOUT_EFFECT = {  # on the waveform of a single utterance
    *("processor_class", "feature_extractor_class", "auto_map", "transformers_version", "return_attention_mask"),
    *("padding", "padding_side", "truncation", "max_length", "pad_to_multiple_of", "return_tensors"),
}


def _check_extractor(settings: dict, where: str) -> None:
    """Refuse a feature extractor that changes waveforms in a way that `EncoderConfig` cannot express."""
    check_fixed(settings, _FIXED_OF_EXTRACTOR, where)
    normalize = settings.get("do_normalize", True)
    if not isinstance(normalize, bool):
        raise UserError(f"{where}: `do_normalize` must be true or false, but is {normalize!r}.")
    known = {*_FIXED_OF_EXTRACTOR, *_WITHOUT_EFFECT, "do_normalize"}
    for key, value in settings.items():
        if key not in known and not key.startswith("_") and value is not None:
            raise UserError(
                f"{where}: has `{key}` = {str(value)[:60]!r}, which is not known here, so that waveforms might be "
                "prepared differently. If transformers' Wav2Vec2FeatureExtractor ignores it, remove it."
            )


def _recognise(source: Source) -> bool:
    if not source.is_folder and not any(".encoder.layers.0.feed_forward." in f".{key}" for key in source.weights):
        return False
    kind = (source.json(CONFIG) or {}).get("model_type")
    return kind not in (None, "whisper") and not folder.recognise(source)


def _read(source: Source, options: ReadOptions) -> LoadedModel:
    cfg, in_folder = source.json(CONFIG), source.is_folder
    assert cfg is not None, "it was recognised"
    weights = read_weights(source.path) if in_folder else source.weights
    with taken_apart(source.path):
        config = from_cfg(cfg, _feature_extractor(source), str(source.folder / CONFIG))
        with_mask = bool(cfg.get("mask_time_prob", 0.05) or cfg.get("mask_feature_prob", 0.0))
        state = KEYS.to_ours(weights, config, str(source.path), mask_embedding=with_mask)
    return dense_model(source, config, state, weights=weight_files(source.path) if in_folder else ())


def _feature_extractor(source: Source) -> dict | None:
    """Settings of the feature extractor; as in transformers 5, those in a processor's file take precedence."""
    processor = source.json(PROCESSOR) or {}
    nested = processor.get("feature_extractor", processor.get("audio_processor"))
    return source.json(PREPROCESSOR) if nested is None else nested


def _write(path: Path, encoder: SpeechEncoder, options: WriteOptions) -> None:
    if encoder.spec != CompactSpec.dense(encoder.config) or options.files or peculiarities(encoder.config):
        save_huggingface(path, encoder, dict(options.provenance), progress=options.progress, files=options.files)
        return
    cfg, preprocessor = to_cfg(encoder.config)
    state = KEYS.to_theirs(encoder.state_dict(), encoder.config)
    with written_whole(path) as temporary:
        temporary.mkdir()
        write_safetensors(temporary / SAFETENSORS, state, progress=options.progress)
        for name, data in ((CONFIG, cfg), (PREPROCESSOR, preprocessor)):
            (temporary / name).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def from_cfg(cfg: dict, preprocessor: dict | None, where: str) -> EncoderConfig:
    """Translate a `config.json` of transformers (defaults as in its configuration classes).

    Args:
        cfg: content of `config.json`.
        preprocessor: settings of the feature extractor; `do_normalize` says whether waveforms are normalised. None if
            there are none: then waveforms are normalised if the feature extractor uses LayerNorm, as in public models.
        where: name of the file in messages.

    Raises:
        UserError: the architecture is not supported.
    """
    kind = cfg.get("model_type")
    if kind not in _NAMES:
        raise UserError(f"{where}: `model_type` must be one of {sorted(_NAMES)}, but is {kind!r}.")
    family = _NAMES[kind]
    check_fixed(cfg, _FIXED, where)
    _check_extractor(preprocessor or {}, f"{where}: its feature extractor")
    fields = {ours: cfg[theirs] for theirs, ours in _FIELDS.items() if theirs in cfg}
    if "conv_dim" in cfg:
        layers = [cfg["conv_dim"], cfg.get("conv_kernel"), cfg.get("conv_stride")]
        if not all(isinstance(part, list) and len(part) == len(layers[0]) for part in layers):
            raise UserError(
                f"{where}: `conv_dim`, `conv_kernel` and `conv_stride` must be lists of one length, but are {layers}."
            )
        fields["conv_layers"] = [list(layer) for layer in zip(*layers, strict=True)]
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
    return from_dict(EncoderConfig, {**family_fields(family), **fields}, where)


def to_cfg(config: EncoderConfig) -> tuple[dict, dict]:
    """`config.json` and `preprocessor_config.json` of transformers for `config`.

    Raises:
        UserError: transformers' model of this family cannot have this configuration.
    """
    wavlm_like = config.relative_position and config.gated_position
    data2vec_like = config.pos_conv_depth > 1 and config.extractor_mode == "layer_norm" and not config.norm_first
    if wavlm_like != (config.family == "wavlm") or (config.family == "data2vec" and not data2vec_like):
        raise UserError(
            f"transformers' {_MODELS[config.family]} cannot represent this encoder; no such folder can be written."
        )
    if config.conv_layers[-1][0] == config.embed_dim:
        raise UserError(
            "transformers always projects the CNN's output, but this encoder has none, because both widths are equal."
        )
    kind = {ours: theirs for theirs, ours in _NAMES.items()}[config.family]
    channels, kernels, strides = zip(*config.conv_layers, strict=True)
    cfg = {
        "model_type": kind,
        "architectures": [_MODELS[config.family]],
        **{theirs: getattr(config, ours) for theirs, ours in _FIELDS.items()},
        **_FIXED,
        "conv_dim": list(channels),
        "conv_kernel": list(kernels),
        "conv_stride": list(strides),
        "num_feat_extract_layers": len(channels),
        "mask_time_prob": 0.05,  # above 0, so that the model has a mask embedding, as in the file
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


FORMAT = Format(
    name="huggingface",
    about="a Hugging Face folder (config.json with `model_type`; also a weights file beside it, as trainers write)",
    recognise=_recognise,
    read=_read,
    write=_write,
    holds_pruned=True,
)
