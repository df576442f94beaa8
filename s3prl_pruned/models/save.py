"""Dense encoders into any public format; the mirror of `models/load.py`."""

import json
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from s3prl_pruned.config import UserError
from s3prl_pruned.models.convert import official_checkpoint
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.foreign_configs import to_fairseq, to_huggingface
from s3prl_pruned.models.keys import to_theirs
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.models.tensor_files import CountedFile, Progress, write_safetensors

FORMATS = ("microsoft", "s3prl", "fairseq", "huggingface", "torchaudio")


def save_dense(encoder: SpeechEncoder, path: str | Path, fmt: str, *, progress: Progress | None = None) -> None:
    """Write a dense encoder; whole or not at all, and never over something else.

    Args:
        encoder: dense, on the CPU.
        path: the file to write, or the folder for `huggingface`; must not exist.
        fmt: one of `FORMATS`. `microsoft` is WavLM's own, and s3prl's for WavLM; `torchaudio` holds no mask embedding
            (only masked pre-training uses it) and no data2vec.
        progress: for large files.

    Raises:
        UserError: the encoder is pruned, the format cannot hold it, or the file cannot be written.
    """
    path = Path(path)
    if encoder.spec != CompactSpec.dense(encoder.config):
        raise UserError("public formats hold dense encoders only, but this one is pruned. Use tools/export.py for it.")
    if path.exists():
        raise UserError(f"{path}: exists already, and a conversion never overwrites. Name another path, or move it.")
    contents = _CONTENTS.get(fmt)
    if contents is None and fmt != "huggingface":
        raise UserError(f"the format must be one of {list(FORMATS)}, but is {fmt!r}.")
    temporary = path.with_name(f".{path.name}.tmp")
    _remove(temporary)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if fmt == "huggingface":
            _write_huggingface(encoder, temporary, progress)
        else:
            with open(temporary, "wb") as file:
                torch.save(contents(encoder), CountedFile(file, progress))
                file.flush()
                os.fsync(file.fileno())
        os.rename(temporary, path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: could not be written ({error}). Free space or name another folder.") from error
    finally:
        _remove(temporary)


def _s3prl(encoder: SpeechEncoder) -> dict:
    """s3prl's conversion of fairseq's checkpoint (its `upstream/{wav2vec2,hubert,data2vec}/convert.py`)."""
    if encoder.config.family == "wavlm":
        return official_checkpoint(encoder)
    model, task = to_fairseq(encoder.config)
    content = {"task_cfg": task, "model_cfg": model, "model_weight": _fairseq_state(encoder)}
    if encoder.config.family == "hubert":
        content["dictionaries_symbols"] = [None]  # no label embeddings
    if encoder.config.family == "data2vec":
        # s3prl takes data2vec's heads away before it loads, and wants the teacher's weights there to delete them.
        del content["model_weight"]["final_proj.weight"], content["model_weight"]["final_proj.bias"]
        content["model_weight"]["_ema"] = {}
    return content


def _fairseq(encoder: SpeechEncoder) -> dict:
    model, task = to_fairseq(encoder.config)
    return {"args": None, "cfg": {"_name": None, "common": {}, "model": model, "task": task}, "model": _fairseq_state(encoder)}


def _fairseq_state(encoder: SpeechEncoder) -> dict[str, Tensor]:
    """With the pre-training heads that fairseq's classes always build, as zeros of the smallest size."""
    config = encoder.config
    inner = config.embed_dim if config.family == "data2vec" else 1
    heads = {"final_proj": (inner, config.embed_dim)}
    if config.family == "wav2vec2":
        heads["project_q"] = (1, config.conv_layers[-1][0])
    state = to_theirs(encoder.state_dict(), config, "official")
    for name, (rows, columns) in heads.items():
        state |= {f"{name}.weight": torch.zeros(rows, columns), f"{name}.bias": torch.zeros(rows)}
    return state


_CONTENTS = {
    "microsoft": official_checkpoint,
    "s3prl": _s3prl,
    "fairseq": _fairseq,
    "torchaudio": lambda encoder: to_theirs(encoder.state_dict(), encoder.config, "torchaudio"),
}


def _write_huggingface(encoder: SpeechEncoder, folder: Path, progress: Progress | None) -> None:
    cfg, preprocessor = to_huggingface(encoder.config)
    state = to_theirs(encoder.state_dict(), encoder.config, "huggingface")
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", state, progress=progress)
    for name, data in (("config.json", cfg), ("preprocessor_config.json", preprocessor)):
        (folder / name).write_text(json.dumps(data, indent=2) + "\n")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
