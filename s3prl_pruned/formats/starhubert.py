"""STaRHuBERT and STaRWavLM (Jang et al. 2024): narrow students with fairseq's names, in a Lightning checkpoint."""

from dataclasses import replace

from s3prl_pruned.formats import fairseq
from s3prl_pruned.formats.format import Format, LoadedModel, ReadOptions, Source, dense_model, taken_apart
from s3prl_pruned.formats.lightning_students import declared, shape, student
from s3prl_pruned.models.state_rule import StateRule

_KEYS = replace(fairseq.KEYS, name="STaRHuBERT")
_STATES = StateRule(first="none", final_norm=False)
"""States as in its s3prl expert: the outputs of the layers."""


def _recognise(source: Source) -> bool:
    weights = student(source)
    return bool(weights) and not any(name.startswith("proj_head.") for name in weights)


def _read(source: Source, options: ReadOptions) -> LoadedModel:
    section, where = declared(source)
    with taken_apart(source.path):
        config = replace(shape(section, where), states=_STATES)
        ours = _KEYS.to_ours(student(source), config, str(source.path))
    return dense_model(source, config, ours)


FORMAT = Format(
    name="starhubert",
    about="STaRHuBERT's and STaRWavLM's (Lightning's `state_dict`, `student_model.`, and a YAML file beside it)",
    recognise=_recognise,
    read=_read,
)
