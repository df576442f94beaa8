"""Encoders of DiariZen and wedefense: DPHuBERT's format, with other hidden states.

A torch file, or a folder with `pruned_config.json`, or with the `config.toml` of a diarizer that contains the
encoder.
"""

import json
from dataclasses import replace
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import dphubert
from s3prl_pruned.formats.dphubert_structure import CONFIGURATION, declares, is_diarizens
from s3prl_pruned.formats.dphubert_writing import checkpoint
from s3prl_pruned.formats.format import PICKLED, Format, LoadedModel, ReadOptions, Source, WriteOptions
from s3prl_pruned.formats.keys import NEW_WEIGHT_NORM
from s3prl_pruned.formats.tensor_files import write_torch_file, written_whole
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.state_rule import StateRule

KEYS = replace(dphubert.KEYS, name="diarizen", weight_norm=NEW_WEIGHT_NORM)
_STATES = StateRule(final_norm=False)


def _recognise(source: Source) -> bool:
    return declares(source) and is_diarizens(source)


def _read(source: Source, options: ReadOptions) -> LoadedModel:
    return dphubert.read_as(source, options, states=_STATES, author="DiariZen")


def _write(path: Path, encoder: SpeechEncoder, options: WriteOptions) -> None:
    """Write a folder with the same files as DiariZen's `apply_pruning.py`."""
    if encoder.config.family != "wavlm":
        raise UserError(f"the diarizen format holds WavLM only, but this is a {encoder.config.family}. Take dphubert.")
    content = checkpoint(encoder, KEYS)
    content["config"]["use_layerwise_prune"] = False
    with written_whole(path) as temporary:
        temporary.mkdir()
        write_torch_file(temporary / PICKLED, content, progress=options.progress)
        (temporary / CONFIGURATION).write_text(json.dumps(content["config"], indent=4) + "\n", encoding="utf-8")
        dphubert.compare(_read(Source(temporary), ReadOptions(dense=encoder.config)), encoder)


FORMAT = Format(
    name="diarizen",
    about="DiariZen's (like DPHuBERT's; or a folder with pruned_config.json, or with a diarizer's config.toml)",
    recognise=_recognise,
    read=_read,
    write=_write,
    holds_pruned=True,
)
