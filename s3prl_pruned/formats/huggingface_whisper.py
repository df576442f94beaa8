"""Hugging Face folders of Whisper (WhisperModel, WhisperForConditionalGeneration): only the encoder is read."""

from s3prl_pruned.formats.configs import check_fixed
from s3prl_pruned.formats.format import CONFIG, Format, LoadedModel, ReadOptions, Source, dense_model, taken_apart
from s3prl_pruned.formats.huggingface_weights import read_weights, weight_files
from s3prl_pruned.formats.keys import NEW_WEIGHT_NORM, KeyTable
from s3prl_pruned.formats.whisper import from_sizes
from s3prl_pruned.models.shape import MEL_HOP

_LAYER = "encoder.layers.{i}."

KEYS = KeyTable(
    name="huggingface_whisper",
    parts={
        "mask_embedding": None,
        "feature_extractor.layers.0.conv.": "encoder.conv1.",
        "feature_extractor.layers.1.conv.": "encoder.conv2.",
        "positional_convolution.embedding": "encoder.embed_positions.weight",
        "layers.{i}.attention.q_proj.": _LAYER + "self_attn.q_proj.",
        "layers.{i}.attention.k_proj.": _LAYER + "self_attn.k_proj.",
        "layers.{i}.attention.v_proj.": _LAYER + "self_attn.v_proj.",
        "layers.{i}.attention.out_proj.": _LAYER + "self_attn.out_proj.",
        "layers.{i}.attention_layer_norm.": _LAYER + "self_attn_layer_norm.",
        "layers.{i}.feed_forward.fc1.": _LAYER + "fc1.",
        "layers.{i}.feed_forward.fc2.": _LAYER + "fc2.",
        "layers.{i}.final_layer_norm.": _LAYER + "final_layer_norm.",
        "layer_norm.": "encoder.layer_norm.",
    },
    weight_norm=NEW_WEIGHT_NORM,
    heads=("decoder.", "proj_out."),
    task_heads=("projector.", "classifier.", "layer_weights"),  # of WhisperForAudioClassification
)
_SIZES = {
    "encoder_layers": "num_layers",
    "d_model": "embed_dim",
    "encoder_attention_heads": "num_heads",
    "encoder_ffn_dim": "ffn_dim",
    "num_mel_bins": "mel_bins",
    "max_source_positions": "max_frames",
}
_FIXED = {"activation_function": "gelu"}
_FIXED_OF_EXTRACTOR = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "sampling_rate": 16_000,
    "hop_length": MEL_HOP,
    "n_fft": 400,
    "dither": 0.0,
}


def _recognise(source: Source) -> bool:
    if not source.is_folder and not any(".encoder.layers.0.self_attn." in f".{key}" for key in source.weights):
        return False
    return (source.json(CONFIG) or {}).get("model_type") == "whisper"


def _read(source: Source, options: ReadOptions) -> LoadedModel:
    cfg, where = source.json(CONFIG), str(source.folder / CONFIG)
    assert cfg is not None, "it was recognised"
    weights = read_weights(source.path) if source.is_folder else source.weights
    with taken_apart(source.path):
        check_fixed(cfg, _FIXED, where)
        check_fixed(
            source.json("preprocessor_config.json") or {}, _FIXED_OF_EXTRACTOR, f"{where}: its feature extractor"
        )
        config = from_sizes(cfg, _SIZES, where)
        state = KEYS.to_ours(weights, config, str(source.path))
    return dense_model(source, config, state, weights=weight_files(source.path) if source.is_folder else ())


FORMAT = Format(
    name="huggingface_whisper",
    about="a Hugging Face folder of Whisper (only its encoder is read)",
    recognise=_recognise,
    read=_read,
)
