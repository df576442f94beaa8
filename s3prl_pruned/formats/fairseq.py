"""fairseq's checkpoints, read without fairseq: `cfg` (or `args`, used until 2020) and `model`."""

import ast
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.formats.configs import check_fixed, family_fields
from s3prl_pruned.formats.format import Format, LoadedModel, ReadOptions, Source, WriteOptions, dense_model, taken_apart
from s3prl_pruned.formats.keys import OLD_WEIGHT_NORM, KeyTable
from s3prl_pruned.formats.tensor_files import write_torch_file, written_whole
from s3prl_pruned.formats.unpickle import plain
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig

_CNN, _LAYER = "feature_extractor.conv_layers.{c}.", "encoder.layers.{i}."


def _spell(prefix: str, config: EncoderConfig) -> str:
    """The CNN's LayerNorm is the second of three modules, between two transpositions."""
    wrapped = (
        config.extractor_mode == "layer_norm" and prefix.startswith("feature_extractor.") and prefix.endswith(".2.")
    )
    return f"{prefix}1." if wrapped else prefix


KEYS = KeyTable(
    name="fairseq",
    parts={
        "mask_embedding": "mask_emb",
        "feature_extractor.layers.{c}.conv.": _CNN + "0.",
        "feature_extractor.layers.{c}.norm.": _CNN + "2.",
        "feature_projection.layer_norm.": "layer_norm.",
        "feature_projection.projection.": "post_extract_proj.",
        "positional_convolution.conv.": "encoder.pos_conv.0.",
        "positional_convolution.convs.{p}.": "encoder.pos_conv.{p}.0.",
        "relative_position.embedding.": "encoder.layers.0.self_attn.relative_attention_bias.",
        "layers.{i}.attention.gate.projection.": _LAYER + "self_attn.grep_linear.",
        "layers.{i}.attention.gate.scale": _LAYER + "self_attn.grep_a",
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
    weight_norm=OLD_WEIGHT_NORM,
    heads=("final_proj.", "label_embs_concat", "target_glu.", "quantizer.", "project_q.", "_ema"),
    spell=_spell,
)
"""Names that Microsoft's and s3prl's checkpoints share."""

_NAMES = {"wav2vec2": "wav2vec2", "hubert": "hubert", "data2vec_audio": "data2vec"}
"""fairseq's models -> our families."""
_FIELDS = {
    "encoder_layers": "num_layers",
    "encoder_embed_dim": "embed_dim",
    "encoder_attention_heads": "num_heads",
    "encoder_ffn_embed_dim": "ffn_dim",
    "layer_norm_first": "norm_first",
    "conv_bias": "conv_bias",
    "conv_pos_groups": "pos_conv_groups",
}
_FIXED = {"activation_fn": "gelu", "layer_type": "transformer", "quantize_input": False, "crop_seq_to_multiple": 1}
SUPERNETS = ("hubert_pruner", "student_hubert")
"""LightHuBERT's models, which `lighthubert.py` reads."""
EXTRACTOR_MODES = {"default": "group_norm", "layer_norm": "layer_norm"}
"""fairseq's names -> our names."""


def declared(source: Source) -> Any:
    """Configuration in a checkpoint with `model`: `cfg` or `args`, as plain data; None if there is none."""
    content = source.content
    if "model" not in content or not ("cfg" in content or "args" in content):
        return None
    return plain(content.get("cfg")) or plain(content.get("args"))


def is_microsofts(cfg: Any) -> bool:
    """Whether the result of `declared` is WavLM's flat configuration, which names no model."""
    return isinstance(cfg, dict) and "encoder_layers" in cfg and "arch" not in cfg


def model_name(source: Source) -> Any:
    """Name of the model in a checkpoint's configuration; None if there is none."""
    cfg = declared(source)
    model = cfg.get("model") if isinstance(cfg, dict) else None
    return model.get("_name") if isinstance(model, dict) else None


def _recognise(source: Source) -> bool:
    content = source.content
    if "model" not in content or not ("cfg" in content or "args" in content):
        return False
    return not is_microsofts(declared(source)) and model_name(source) not in SUPERNETS


def _read(source: Source, options: ReadOptions) -> LoadedModel:
    cfg = declared(source)
    if not isinstance(cfg, dict):
        raise UserError(f"{source.path}: `cfg` must be a dict, but is a {type(cfg).__name__}.")
    model, task = (cfg["model"], cfg.get("task") or {}) if "model" in cfg else (cfg, cfg)
    return read_parts(source, model, task, source.content["model"])


def read_parts(source: Source, model_cfg: Any, task_cfg: Any, state: Any) -> LoadedModel:
    """Build an encoder from the parts of a checkpoint, which are not trusted.

    Args:
        source: for messages.
        model_cfg: section `model` of fairseq's configuration.
        task_cfg: section `task` of it.
        state: weights with fairseq's names.

    Raises:
        UserError: a part is not a dict, or the architecture is not supported.
    """
    model_cfg, task_cfg = plain(model_cfg), plain(task_cfg)
    for name, part in (("model's configuration", model_cfg), ("task's configuration", task_cfg), ("model", state)):
        if not isinstance(part, dict):
            raise UserError(f"{source.path}: the {name} must be a dict, but is a {type(part).__name__}.")
    with taken_apart(source.path):
        config = from_cfg(*_pre_trained(model_cfg, task_cfg), str(source.path))
        ours = KEYS.to_ours(state, config, str(source.path))
    return dense_model(source, config, ours)


def _pre_trained(model_cfg: dict, task_cfg: dict) -> tuple[dict, dict]:
    """For fine-tuned models (`wav2vec_ctc`, `hubert_ctc`, ...), the sections with which the encoder was pre-trained."""
    args = model_cfg.get("w2v_args")
    if not isinstance(args, dict):
        return model_cfg, task_cfg
    model, task = (args["model"], args.get("task") or {}) if "model" in args else (args, args)
    both = isinstance(model, dict) and isinstance(task, dict)
    return (model, {"normalize": task_cfg.get("normalize", task.get("normalize", False))}) if both else (model_cfg, {})


def _write(path: Path, encoder: SpeechEncoder, options: WriteOptions) -> None:
    model, task = to_cfg(encoder.config)
    cfg = {"_name": None, "common": {}, "model": model, "task": task}
    content = {"args": None, "cfg": cfg, "model": state_with_heads(encoder)}
    with written_whole(path) as temporary:
        write_torch_file(temporary, content, progress=options.progress)


def state_with_heads(encoder: SpeechEncoder) -> dict[str, Tensor]:
    """Weights of the encoder, and zeros of the smallest size for pre-training heads, which fairseq always builds."""
    config = encoder.config
    inner = config.embed_dim if config.family == "data2vec" else 1
    heads = {"final_proj": (inner, config.embed_dim)}
    if config.family == "wav2vec2":
        heads["project_q"] = (1, config.conv_layers[-1][0])
    state = KEYS.to_theirs(encoder.state_dict(), config)
    for name, (rows, columns) in heads.items():
        state |= {f"{name}.weight": torch.zeros(rows, columns), f"{name}.bias": torch.zeros(rows)}
    return state


def _family(model_cfg: dict, where: str) -> str:
    """Family in a fairseq configuration.

    Raises:
        UserError: it is another model, or none is named.
    """
    name = model_cfg.get("_name") or model_cfg.get("arch")
    if name is None:  # s3prl saves the section without its name; these keys exist in one family only
        marks = {"average_top_k_layers": "data2vec_audio", "label_rate": "hubert", "quantize_targets": "wav2vec2"}
        name = next((name for key, name in marks.items() if key in model_cfg), None)
    if name not in _NAMES:
        raise UserError(
            f"{where}: declares the fairseq model {name!r}; {sorted(_NAMES)} can be read. "
            "Take the pre-trained checkpoint, not a fine-tuned one."
        )
    return _NAMES[name]


def from_cfg(model_cfg: dict, task_cfg: dict, where: str) -> EncoderConfig:
    """Translate fairseq's `model` and `task` sections (defaults as in fairseq's dataclasses).

    Raises:
        UserError: the architecture is not supported.
    """
    family = _family(model_cfg, where)
    check_fixed(model_cfg, _FIXED, where)
    fields = {ours: model_cfg[theirs] for theirs, ours in _FIELDS.items() if model_cfg.get(theirs) is not None}
    mode = model_cfg.get("extractor_mode") or "default"
    if mode not in EXTRACTOR_MODES:
        raise UserError(f"{where}: `extractor_mode` must be one of {sorted(EXTRACTOR_MODES)}, but is {mode!r}.")
    if "conv_feature_layers" in model_cfg:
        fields["conv_layers"] = parse_conv_layers(model_cfg["conv_feature_layers"], where)
    depth, kernel = model_cfg.get("pos_conv_depth") or 1, model_cfg.get("conv_pos") or 128
    if type(depth) is not int or type(kernel) is not int or depth < 1:
        raise UserError(
            f"{where}: `pos_conv_depth` and `conv_pos` must be whole numbers, but are {depth!r} and {kernel!r}."
        )
    fields["pos_conv_depth"] = depth
    fields["pos_conv_kernel"] = max(3, kernel // depth) if depth > 1 else kernel
    fields["normalize_waveform"] = bool(task_cfg.get("normalize", False))
    return from_dict(EncoderConfig, {**family_fields(family), **fields, "extractor_mode": EXTRACTOR_MODES[mode]}, where)


def to_cfg(config: EncoderConfig) -> tuple[dict, dict]:
    """Fairseq's `model` and `task` sections for `config`; of the pre-training settings, only those needed to build it.

    Raises:
        UserError: fairseq has no such model.
    """
    names = {ours: theirs for theirs, ours in _NAMES.items()}
    if config.family not in names:
        raise UserError(f"fairseq has no {config.family}: use Microsoft's format.")
    model = {theirs: getattr(config, ours) for theirs, ours in _FIELDS.items()}
    modes = {ours: theirs for theirs, ours in EXTRACTOR_MODES.items()}
    model |= {
        "_name": names[config.family],
        "extractor_mode": modes[config.extractor_mode],
        "conv_feature_layers": str([tuple(layer) for layer in config.conv_layers]),
        "conv_pos": config.pos_conv_kernel * config.pos_conv_depth,
        "final_dim": 1,  # pre-training heads are required; they are written as small as possible
    }
    if config.pos_conv_depth > 1:
        model["pos_conv_depth"] = config.pos_conv_depth
    if config.family == "hubert":
        model["label_rate"] = 50.0
    task = "hubert_pretraining" if config.family == "hubert" else "audio_pretraining"
    return model, {"_name": task, "normalize": config.normalize_waveform}


_MAX_CONV_LAYERS = 100


def parse_conv_layers(text: str, where: str) -> tuple[tuple[int, int, int], ...]:
    """Parse fairseq's notation, `[(512,10,5)] + [(512,3,2)] * 4`, without evaluating it as code."""

    def read(node: ast.AST) -> list:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            layers = read(node.left) + read(node.right)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            times = ast.literal_eval(node.right)
            if times not in range(_MAX_CONV_LAYERS + 1):  # before memory is allocated
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


FORMAT = Format(
    name="fairseq",
    about="fairseq's (`cfg` or `args`, `model`)",
    recognise=_recognise,
    read=_read,
    write=_write,
)
