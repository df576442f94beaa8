"""Dense encoders from any public format, recognised by what the file declares, never by its keys' shapes."""

import json
from pathlib import Path

from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.models import families
from s3prl_pruned.models.convert import read_official_safetensors
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.foreign_configs import from_fairseq, from_huggingface
from s3prl_pruned.models.huggingface_folder import folder_of, read_weights
from s3prl_pruned.models.keys import to_ours
from s3prl_pruned.models.spec import EncoderConfig
from s3prl_pruned.models.unpickle import plain, read_torch_file

READABLE = (
    "Microsoft's WavLM (`cfg`, `model`), fairseq's (`cfg` or `args`, `model`), s3prl's (`task_cfg`, `model_cfg`, "
    "`model_weight`), a Hugging Face folder (config.json), a torchaudio state dict (with its shape named)"
)


def load_dense(path: str | Path, *, config: EncoderConfig | None = None) -> SpeechEncoder:
    """Load a dense checkpoint; fp32, CPU, evaluation mode. Nothing of the file is run.

    Tensors are mapped from the file where its format allows it, so that memory holds one model and not two: the file
    must not be overwritten in place while the encoder lives (replacing it by a renamed one is harmless).

    Args:
        path: a file or folder in one of `READABLE`.
        config: the shape, for a torchaudio state dict, which does not say it; of other files, what is expected.

    Raises:
        UserError: no such file, damaged, malicious, another format, family, architecture or size.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder. Give the path of an existing checkpoint.")
    path = folder_of(path)
    if path.is_dir():
        declared, state = _read_huggingface(path)
    elif path.suffix == ".safetensors":
        declared, state = _read_official(read_official_safetensors(path), path)
    else:
        declared, state = _read_file(path, config)
    if config is not None:
        _check_expected(declared, config, path)
    encoder = SpeechEncoder(declared)
    encoder.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    return encoder.eval()


def named_config(name: str) -> EncoderConfig:
    """The shape of a public model, such as `hubert_base`: a builder of `models/families.py`.

    Raises:
        UserError: no such builder.
    """
    builders = {n: f for n, f in vars(families).items() if n.startswith(tuple(_FAMILY_PREFIXES)) and callable(f)}
    if name not in builders:
        raise UserError(f"the shape must be one of {sorted(builders)}, but is {name!r}.")
    return builders[name]()


_FAMILY_PREFIXES = ("wavlm_", "hubert_", "wav2vec2_", "data2vec_")
Declared = tuple[EncoderConfig, dict[str, Tensor]]


def _read_file(path: Path, config: EncoderConfig | None) -> Declared:
    content = read_torch_file(path)
    keys = content.keys()
    if {"task_cfg", "model_cfg", "model_weight"} <= keys:
        return _read_fairseq(content["model_cfg"], content["task_cfg"], content["model_weight"], path)
    if "model" in keys and ("cfg" in keys or "args" in keys):
        cfg = plain(content.get("cfg")) or plain(content.get("args"))
        if not isinstance(cfg, dict):
            raise UserError(f"{path}: `cfg` must be a dict, but is a {type(cfg).__name__}.")
        if "encoder_layers" in cfg and "arch" not in cfg:
            return _read_official({**content, "cfg": cfg}, path)
        model, task = (cfg["model"], cfg.get("task") or {}) if "model" in cfg else (cfg, cfg)
        return _read_fairseq(model, task, content["model"], path)
    if any(isinstance(key, str) and key.removeprefix("wav2vec2.").startswith("encoder.transformer.") for key in keys):
        if config is None:
            raise UserError(f"{path}: is a torchaudio state dict, which does not say its shape. Name it, such as hubert_base.")
        return config, to_ours(content, config, "torchaudio", str(path))
    raise UserError(f"{path}: is in no known format; it holds {[str(key)[:60] for key in keys][:5]}. Readable are {READABLE}.")


def _read_official(content: dict, path: Path) -> Declared:
    for name in ("cfg", "model"):
        if not isinstance(content.get(name), dict):
            raise UserError(f"{path}: `{name}` must be a dict, but is a {type(content.get(name)).__name__}.")
    config = families.from_official(content["cfg"], str(path))
    return config, to_ours(content["model"], config, "official", str(path))


def _read_fairseq(model_cfg, task_cfg, state, path: Path) -> Declared:
    model_cfg, task_cfg = plain(model_cfg), plain(task_cfg)
    for name, part in (("model's configuration", model_cfg), ("task's configuration", task_cfg), ("model", state)):
        if not isinstance(part, dict):
            raise UserError(f"{path}: the {name} must be a dict, but is a {type(part).__name__}.")
    config = from_fairseq(model_cfg, task_cfg, str(path))
    return config, to_ours(state, config, "official", str(path))


def _read_huggingface(folder: Path) -> Declared:
    cfg, preprocessor = (_read_json(folder / name) for name in ("config.json", "preprocessor_config.json"))
    if cfg is None:
        raise UserError(f"{folder}: has no config.json; a folder must be one that `save_pretrained` wrote.")
    config = from_huggingface(cfg, preprocessor, str(folder / "config.json"))
    state = read_weights(folder)
    with_mask = cfg.get("mask_time_prob", 0.05) > 0 or cfg.get("mask_feature_prob", 0.0) > 0
    return config, to_ours(state, config, "huggingface", str(folder), mask_embedding=with_mask)


def _read_json(path: Path) -> dict | None:
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is damaged, not JSON ({error}). Copy or download it again.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: must hold a JSON object, but holds a {type(data).__name__}.")
    return data


def _check_expected(declared: EncoderConfig, expected: EncoderConfig, path: Path) -> None:
    unseen = {"dropout", "attention_dropout", "activation_dropout", "feature_grad_mult"}  # training's, not the model's
    if not declared.relative_position:
        unseen |= {"num_buckets", "max_distance"}
    changed = {
        name: (value, getattr(expected, name))
        for name, value in vars(declared).items()
        if name not in unseen and value != getattr(expected, name)
    }
    if changed:
        texts = [f"`{name}` is {found!r} and must be {wanted!r}" for name, (found, wanted) in changed.items()]
        raise UserError(f"{path}: is another model than the one named: {'; '.join(texts[:4])}.")
