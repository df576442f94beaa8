"""DistilHuBERT (Chang et al. 2022), as written by s3prl's pre-training: `Config`, `Distiller`, state of the runner."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.formats import fairseq
from s3prl_pruned.formats.configs import check_fixed
from s3prl_pruned.formats.format import Format, LoadedModel, ReadOptions, Source, dense_model, taken_apart
from s3prl_pruned.formats.keys import Foreign
from s3prl_pruned.formats.unpickle import plain
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.state_rule import StateHeads, StateRule

_FIXED = {"task_emb_type": "expand-last", "out_layer_type": "expand-last", "attention_type": "original"}
_DEFAULTS = {"encoder_layers": 1, "n_tasks": 12, "final_dim": 768}
"""Defaults of s3prl (`upstream/distiller/model.py`) that differ from fairseq's."""


def _heads_apart(state: Foreign) -> Foreign:
    """Last linear map of the predictions: drop batch and frame axes of its bias; give one head the form of several."""
    state = dict(state)
    bias = state.get("output_layer.2.bias")
    if isinstance(bias, Tensor) and bias.dim() == 4:
        state["output_layer.2.bias"] = bias.flatten(0, 2)
    one, its_bias = state.get("output_layer.2.layer.weight"), state.get("output_layer.2.layer.bias")
    if isinstance(one, Tensor) and isinstance(its_bias, Tensor) and one.dim() == 2:
        del state["output_layer.2.layer.weight"], state["output_layer.2.layer.bias"]
        state |= {"output_layer.2.weight": one.T[None], "output_layer.2.bias": its_bias[None]}
    return state


_KEYS = replace(
    fairseq.KEYS,
    name="DistilHuBERT",
    parts={
        **fairseq.KEYS.parts,
        "state_heads.inner.": "output_layer.0.",
        "state_heads.weight": "output_layer.2.weight",
        "state_heads.bias": "output_layer.2.bias",
    },
    split=_heads_apart,
)
_WITHOUT_HEADS = replace(fairseq.KEYS, name=_KEYS.name, task_heads=("output_layer.",))


def _recognise(source: Source) -> bool:
    return source.content.keys() >= {"Config", "Distiller"}


def _read(source: Source, options: ReadOptions) -> LoadedModel:
    where, config = str(source.path), plain(source.content["Config"])
    words = config.get("distiller") if isinstance(config, dict) else None
    words = _mapping(words, "`Config`'s section `distiller`", where)
    state = _mapping(source.content["Distiller"], "`Distiller`", where)
    with taken_apart(source.path):
        shape = _shape({**_DEFAULTS, **words}, where)
        keys = _WITHOUT_HEADS if shape.states.heads is None else _KEYS
        ours = keys.to_ours(state, shape, where)
    return dense_model(source, shape, ours)


def _mapping(part: Any, name: str, where: str) -> Mapping[Any, Any]:
    if not isinstance(part, Mapping):
        raise UserError(f"{where}: {name} must be a dict, but is a {type(part).__name__}.")
    return part


def _shape(words: Mapping[str, Any], where: str) -> EncoderConfig:
    """Shape of the encoder; by default its states are those of s3prl's expert: projected features, layers, predictions.

    Predictions with another width than the layers are left out: s3prl's weighted sum cannot use both.
    """
    check_fixed(words, _FIXED, where)
    theirs = {
        **words,
        "_name": "hubert",
        "conv_bias": False,
        "conv_feature_layers": words.get(
            "extractor_conv_feature_layers", "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"
        ),
    }
    config = fairseq.from_cfg(theirs, {"normalize": False}, where)
    inner = words.get("out_layer_inter_dim") or -1
    sizes = {
        "number": words["n_tasks"],
        "inner_dim": inner if inner > 0 else config.embed_dim,
        "dim": words["final_dim"],
    }
    heads = from_dict(StateHeads, {"kind": "predictions", **sizes}, f"{where}: predictions")
    kept = heads if heads.dim == config.embed_dim else None
    states = StateRule(first="projection", final_norm=False, heads=kept)
    return replace(config, padding_rule="convolution", projection_norm=False, states=states)


FORMAT = Format(
    name="distilhubert",
    about="DistilHuBERT's (s3prl's `Config`, `Distiller`)",
    recognise=_recognise,
    read=_read,
)
