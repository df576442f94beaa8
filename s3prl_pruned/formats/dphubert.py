"""DPHuBERT's format, also used by DPWavLM and SASPG: a pruned encoder, or a student in training whose gates are cut.

A torch file with `state_dict` and `config`. DiariZen's format is a variant of it (`diarizen.py`).
"""

import logging
from pathlib import Path
from typing import Any

import torch

from s3prl_pruned.config import UserError
from s3prl_pruned.formats import torchaudio
from s3prl_pruned.formats.dphubert_gates import cut_gates, has_gates
from s3prl_pruned.formats.dphubert_structure import (
    CONFIGURATION,
    FLAGS,
    HEADS,
    LAYER,
    declares,
    encoder_named,
    is_diarizens,
    structure_of,
)
from s3prl_pruned.formats.dphubert_writing import checkpoint
from s3prl_pruned.formats.folder import TOLERANCE, probe, relative_difference
from s3prl_pruned.formats.format import (
    PICKLED,
    Format,
    LoadedModel,
    ReadOptions,
    Source,
    WriteOptions,
    pruned_model,
    taken_apart,
)
from s3prl_pruned.formats.keys import OLD_WEIGHT_NORM, KeyTable, unwrapped, weights_of
from s3prl_pruned.formats.tensor_files import write_torch_file, written_whole
from s3prl_pruned.formats.unpickle import plain, read_torch_file
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.models.state_rule import StateRule

logger = logging.getLogger(__name__)

KEYS = KeyTable(
    name="dphubert",
    parts={**torchaudio.KEYS.parts, "feature_projection.channel_scale": "feature_extractor.dummy_weight"},
    weight_norm=OLD_WEIGHT_NORM,
    heads=("aux.",),
)
"""Names as in torchaudio, from which their code is derived; but WavLM's attention is not wrapped."""
_FIRST = "feature_extractor.conv_layers.0.conv.weight"
_SILENT = ("teacher_model.", "distill_linear_projs.")
_STATES = StateRule(first="projection", final_norm=False)
_GATE = ("gru_rel_pos_linear.weight", "gru_rel_pos_linear.bias", "gru_rel_pos_const")
_NAMES = (PICKLED, "*-converted.bin", "whole_pytorch_model.bin")
"""File names of the weights in a folder, in the order in which they are tried."""


def read_as(source: Source, options: ReadOptions, *, states: StateRule, author: str) -> LoadedModel:
    """Read a model in DPHuBERT's format, or in DiariZen's variant of it.

    Args:
        source: file or folder recognised as this format.
        options: `dense` is used.
        states: rule of the published states.
        author: DPHuBERT or DiariZen, for the card.

    Raises:
        UserError: it is damaged, its parts do not fit together, or the kept heads are not given.
    """
    where = str(source.path)
    file = _weights_in(source.folder) if source.is_folder else source.path
    content = read_torch_file(file) if source.is_folder else source.content
    with taken_apart(source.path):
        state = unwrapped(weights_of(content) if content else source.weights, _FIRST, where, _SILENT)
        cfg = _configuration(source, content)
        if has_gates(state):
            logger.warning("%s is a student in training: its gates are cut, as in DPHuBERT's prune.py.", where)
            cfg = cut_gates(state, cfg, where)
        elif flags := [name for name in FLAGS if cfg.get(name)]:
            raise UserError(
                f"{where}: `{flags[0]}` is true, so that there should be gates, but the weights hold none. They are of "
                "different models."
            )
        config, spec = structure_of(state, cfg, where, dense=options.dense, states=states)
        _fit_position_bias(state, spec, config.relative_position, where)
        ours = KEYS.to_ours(state, config, where, spec=spec)
    return pruned_model(source, config, spec, ours, method=f"converted from {author}'s format", weights=[file])


def _weights_in(folder: Path) -> Path:
    for pattern in _NAMES:
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            raise UserError(f"{folder}: holds {[path.name for path in found]}. Name one of them.")
        if found:
            return found[0]
    raise UserError(f"{folder}: holds no weights, none of {', '.join(_NAMES)}. Copy or download it again.")


def _configuration(source: Source, content: dict) -> dict[str, Any]:
    """The configuration in the file, else in a file beside it, else that of the encoder named in a recipe beside it."""
    cfg = plain(content.get("config"))
    if cfg is None:
        cfg = source.json(CONFIGURATION)
    if cfg is None:
        named = (encoder_named(source.folder) or "").lower()  # lower case as in their code
        cfg = {"encoder_remaining_heads": HEADS[named]} if named in HEADS else {}
    if not isinstance(cfg, dict):
        raise UserError(f"{source.path}: `config` must be a dict, but is a {type(cfg).__name__}.")
    return cfg


def _fit_position_bias(state: dict[str, Any], spec: CompactSpec, relative: bool, where: str) -> None:
    """Their position bias has gates of all heads, also removed ones; without attention in layer 0 there is no bias."""
    gone = 0
    for i, layer in enumerate(spec.layers):
        part = LAYER.format(i=i) + "attention."
        if relative and layer.attention and f"{part}gru_rel_pos_const" in state:
            state[f"{part}gru_rel_pos_const"] = state[f"{part}gru_rel_pos_const"].flatten()[
                [head.index for head in layer.heads]
            ]
        elif not relative:
            gone += sum(state.pop(part + name, None) is not None for name in _GATE)
    if gone:
        logger.warning("%s: layer 0 has no attention, so that no layer has a position bias.", where)


def _recognise(source: Source) -> bool:
    return declares(source) and not is_diarizens(source)


def _read(source: Source, options: ReadOptions) -> LoadedModel:
    return read_as(source, options, states=_STATES, author="DPHuBERT")


def _write(path: Path, encoder: SpeechEncoder, options: WriteOptions) -> None:
    content = checkpoint(encoder, KEYS)
    with written_whole(path) as temporary:
        write_torch_file(temporary, content, progress=options.progress)
        compare(_read(Source(temporary), ReadOptions(dense=encoder.config)), encoder)


def compare(read: LoadedModel, encoder: SpeechEncoder) -> None:
    """Raise a UserError if the written file, when read again, gives other hidden states than its source."""
    wavs = probe()[0][:1]  # their padding follows another rule
    with torch.no_grad():
        found, expected = (one.encode_raw(wavs).hidden_states for one in (read.encoder, encoder))
    difference = relative_difference(found, expected)
    if not difference <= TOLERANCE:  # NaN too
        raise UserError(
            f"the written file differs from the encoder by {difference:.1e} (relative), but rounding explains at most "
            f"{TOLERANCE:.0e}. Nothing was written; please report this."
        )


FORMAT = Format(
    name="dphubert",
    about="DPHuBERT's (`state_dict`, `config`; also DPWavLM's and SASPG's)",
    recognise=_recognise,
    read=_read,
    write=_write,
    holds_pruned=True,
)
