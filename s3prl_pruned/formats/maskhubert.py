"""MaskHuBERT (Jang et al. 2023): a narrow student; its states are outputs of layers, mapped to its teacher's width.

ARMHuBERT, of the same paper and in the same container, is refused.
"""

from dataclasses import replace

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.formats import fairseq
from s3prl_pruned.formats.format import Format, LoadedModel, ReadOptions, Source, dense_model, taken_apart
from s3prl_pruned.formats.keys import Foreign
from s3prl_pruned.formats.lightning_students import declared, shape, student
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.state_rule import StateHeads, StateRule

_KEYS = replace(
    fairseq.KEYS,
    name="MaskHuBERT",
    parts={**fairseq.KEYS.parts, "state_heads.maps.{i}.": "proj_head.{i}.lin_proj."},
)


def _recognise(source: Source) -> bool:
    return any(name.startswith("proj_head.") for name in student(source))


def _read(source: Source, options: ReadOptions) -> LoadedModel:
    weights = student(source)
    _check_no_reuse(weights, source)
    section, where = declared(source)
    with taken_apart(source.path):
        config = _with_heads(shape(section, where), section, where)
        ours = _KEYS.to_ours(weights, config, str(source.path))
    return dense_model(source, config, ours)


def _check_no_reuse(weights: Foreign, source: Source) -> None:
    attentions = {name.split(".self_attn.")[0] for name in weights if ".self_attn.v_proj." in name}
    without = sorted(name for name in attentions if f"{name}.self_attn.q_proj.weight" not in weights)
    if without:
        raise UserError(
            f"{source.path}: is an ARMHuBERT or ARMwavLM: {len(without)} of its {len(attentions)} layers "
            f"({without[0]}, ...) have no queries and keys and use the attention of the layer before. This encoder "
            "computes an attention in every layer, so it cannot be read. MaskHuBERT, of the same authors, can."
        )


def _with_heads(config: EncoderConfig, section: dict, where: str) -> EncoderConfig:
    """Add a linear map for each layer, if the widths differ."""
    if section.get("layerwise_proj") is not True:
        raise UserError(
            f"{where}: `layerwise_proj` must be true (one linear map per layer), but is "
            f"{section.get('layerwise_proj')!r}."
        )
    dim = section.get("pred_head_final_dim", 768)
    heads = from_dict(StateHeads, {"kind": "maps", "dim": dim}, f"{where}: projections")
    same = heads.dim == config.embed_dim  # then the heads are the identity in their code
    return replace(config, states=StateRule(first="none", final_norm=False, heads=None if same else heads))


FORMAT = Format(
    name="maskhubert",
    about="MaskHuBERT's (Lightning's `state_dict`, `student_model.`, and a YAML file beside it)",
    recognise=_recognise,
    read=_read,
)
