"""A second stage: a pruned, exported student is distilled again, without masks.

DPHuBERT's second training step (Peng et al. 2023): what pruning left learns from the same teacher with its whole
capacity.
"""

from dataclasses import fields, replace
from typing import Any

from s3prl_pruned.compressors.magnitude import weights_left
from s3prl_pruned.config import UserError
from s3prl_pruned.formats.format import LoadedModel
from s3prl_pruned.formats.registry import read
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import EncoderConfig
from s3prl_pruned.sparsity.counts import prunable_weights

_OF_TRAINING = ("dropout", "attention_dropout", "activation_dropout", "feature_grad_mult")
_OWN = (
    *("channel_scale", "projection_norm", "equal_projection", "states", "padding_rule"),
    *("relative_position", "gated_position", "num_buckets", "max_distance", "time_reduction"),
)
"""What a student may have lost or got by pruning, and need not share with its teacher."""


def second_stage(export: str, shape: EncoderConfig) -> tuple[SpeechEncoder, str, dict[str, Any]]:
    """The student of a second stage.

    Args:
        export: folder of an exported student, or a pruned encoder in any format that is read.
        shape: the teacher's dense shape, with the settings of training.

    Returns:
        The student, `export`, and the export's hash (`sha256`) and provenance.

    Raises:
        UserError: it is no export, of another dense shape, or pruned weight by weight.
    """
    loaded = _load(export, shape)
    exported = loaded.encoder
    _check_shape(exported.config, shape, export)
    if weights_left(exported) < prunable_weights(exported.config, exported.spec):
        raise UserError(
            f"{export}: weights of it are pruned one by one, and a second stage, which knows no masks, would train "
            "their zeros away. Take an export of a structured method."
        )
    own = {name: getattr(exported.config, name) for name in _OWN}
    student = SpeechEncoder(replace(shape, **own), exported.spec)
    student.load_state_dict(exported.state_dict())
    return student, export, {"sha256": loaded.sha256, **loaded.provenance}


def _load(path: str, shape: EncoderConfig) -> LoadedModel:
    try:
        return read(path, dense=shape)
    except UserError as error:
        raise UserError(
            f"{error} `student_export` must name an exported student: run the first stage, whose recipe is named "
            "without _stage2, or give --student <its export, or a pruned encoder that others publish>."
        ) from error


def _check_shape(found: EncoderConfig, wanted: EncoderConfig, where: str) -> None:
    differing = [
        f.name
        for f in fields(EncoderConfig)
        if f.name not in (*_OF_TRAINING, *_OWN) and getattr(found, f.name) != getattr(wanted, f.name)
    ]
    if differing:
        name = differing[0]
        raise UserError(
            f"{where}: a second stage needs a student and a teacher of one dense shape, but `{name}` of the student's "
            f"is {getattr(found, name)}, and of the teacher's {getattr(wanted, name)}. Give the teacher that it was "
            "pruned with."
        )
