"""Common parts of the readers of MaskHuBERT and STaRHuBERT: a student in a Lightning checkpoint, with fairseq's names.

Their authors' training program (github.com/sungnyun/ARMHuBERT) writes the state dict of teacher and student, and beside
it a YAML file whose `distiller` section has the student's shape. Lightning also saves this as a hyper-parameter.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from s3prl_pruned.config import UserError, load_yaml
from s3prl_pruned.formats.configs import check_fixed
from s3prl_pruned.formats.fairseq import from_cfg
from s3prl_pruned.formats.format import Source
from s3prl_pruned.formats.keys import Foreign
from s3prl_pruned.formats.unpickle import plain
from s3prl_pruned.models.shape import EncoderConfig

logger = logging.getLogger(__name__)

_PREFIX = "student_model."
_SECTION = "distiller"
_FIXED = {"enable_tr_layer": False}
"""A time-reduction layer halves the frames (FitHuBERT); this encoder has none."""


def student(source: Source) -> Foreign:
    """The student's weights; empty if the source holds none with fairseq's names."""
    found = {
        key.removeprefix(_PREFIX): value
        for key, value in source.weights.items()
        if isinstance(key, str) and key.startswith(_PREFIX)
    }
    return found if "feature_extractor.conv_layers.0.0.weight" in found else {}


def declared(source: Source) -> tuple[dict[str, Any], str]:
    """The `distiller` section, and the name of its file.

    Raises:
        UserError: neither the checkpoint nor a single YAML file beside it has the section.
    """
    parameters = plain(source.content.get("hyper_parameters"))
    own = parameters.get("cfg", parameters) if isinstance(parameters, dict) else None
    if isinstance(own, dict) and isinstance(own.get(_SECTION), dict):
        return own[_SECTION], str(source.path)
    path = _yaml_beside(source)
    section = load_yaml(path)[_SECTION]
    logger.warning("%s: its shape is taken from %s.", source.path, path.name)
    return section, str(path)


def _yaml_beside(source: Source) -> Path:
    """The YAML file with the checkpoint's name, or else the only one with the section."""
    beside = sorted(path for end in ("yaml", "yml") for path in source.folder.glob(f"*.{end}"))
    found = [path for path in beside if isinstance(load_yaml(path).get(_SECTION), dict)]
    named = [path for path in found if path.stem == Path(source.path.name.split("?")[0]).stem]
    chosen = named or found
    if len(chosen) != 1:
        what = f"{[path.name for path in chosen][:4]} all have" if chosen else "none has"
        raise UserError(
            f"{source.path}: does not say its shape, which is in the YAML file published with it (section "
            f"`{_SECTION}`). Of the YAML files beside it {what} that section. Put the right one there, as "
            f"{source.path.stem}.yaml."
        )
    return chosen[0]


def shape(section: dict[str, Any], where: str) -> EncoderConfig:
    """The encoder that a `distiller` section describes. Its frames count as padding by the rule of the convolutions.

    Raises:
        UserError: the architecture is not supported.
    """
    check_fixed(section, _FIXED, where)
    words = {**section, "_name": "hubert"}  # students are plain Transformers, whatever their teachers are
    return replace(from_cfg(words, {"normalize": False}, where), padding_rule="convolution")
