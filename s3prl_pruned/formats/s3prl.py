"""s3prl's conversions of fairseq's checkpoints (by its `upstream/{wav2vec2,hubert,data2vec}/convert.py`)."""

from pathlib import Path
from typing import Any

from s3prl_pruned.formats import fairseq, microsoft
from s3prl_pruned.formats.format import Format, LoadedModel, ReadOptions, Source, WriteOptions
from s3prl_pruned.formats.tensor_files import write_torch_file, written_whole
from s3prl_pruned.models.encoder import SpeechEncoder

_PARTS = ("model_cfg", "task_cfg", "model_weight")


def _recognise(source: Source) -> bool:
    return source.content.keys() >= set(_PARTS)


def _read(source: Source, options: ReadOptions) -> LoadedModel:
    return fairseq.read_parts(source, *(source.content[part] for part in _PARTS))


def _write(path: Path, encoder: SpeechEncoder, options: WriteOptions) -> None:
    content = microsoft.checkpoint(encoder) if encoder.config.family == "wavlm" else _checkpoint(encoder)
    with written_whole(path) as temporary:
        write_torch_file(temporary, content, progress=options.progress)


def _checkpoint(encoder: SpeechEncoder) -> dict[str, Any]:
    model, task = fairseq.to_cfg(encoder.config)
    state: dict[str, Any] = dict(fairseq.state_with_heads(encoder))
    content = {"task_cfg": task, "model_cfg": model, "model_weight": state}
    if encoder.config.family == "hubert":
        return {**content, "dictionaries_symbols": [None]}  # no label embeddings
    if encoder.config.family == "data2vec":
        # s3prl removes data2vec's heads before loading, and requires the teacher's weights so that it can delete them.
        del state["final_proj.weight"], state["final_proj.bias"]
        state["_ema"] = {}
    return content


FORMAT = Format(
    name="s3prl",
    about="s3prl's (`task_cfg`, `model_cfg`, `model_weight`; for WavLM it is Microsoft's)",
    recognise=_recognise,
    read=_read,
    write=_write,
)
