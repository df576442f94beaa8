"""A second stage: a pruned, exported student is distilled again, without masks.

DPHuBERT's second training step (Peng et al. 2023): the pruned student learns from the same teacher again, now with its
whole capacity.
"""

from dataclasses import fields, replace
from typing import Any

from s3prl_pruned.compressors.magnitude import weights_left
from s3prl_pruned.config import UserError
from s3prl_pruned.formats.format import LoadedModel
from s3prl_pruned.formats.registry import read
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.sparsity.counts import prunable_weights

_OF_TRAINING = ("dropout", "attention_dropout", "activation_dropout", "feature_grad_mult")
_OWN = (
    *("channel_scale", "projection_norm", "equal_projection", "states", "padding_rule"),
    *("relative_position", "gated_position", "num_buckets", "max_distance", "time_reduction"),
)
"""Fields in which student and teacher may differ: by pruning, by the format of a peer, or by the frame rate."""


def second_stage(export: str, shape: EncoderConfig) -> tuple[SpeechEncoder, str, dict[str, Any]]:
    """The student of a second stage.

    Args:
        export: folder of an exported student, or a pruned encoder in any readable format.
        shape: dense shape of the teacher, with the training settings of the student.

    Returns:
        The student, `export`, and the export's hash (`sha256`) and provenance.

    Raises:
        UserError: it is not an export, has another dense shape, or is pruned weight by weight.
    """
    loaded = _load(export, shape)
    exported = loaded.encoder
    _check_shape(exported.config, shape, export)
    if weights_left(exported) < prunable_weights(exported.config, exported.spec):
        raise UserError(
            f"{export}: its weights are pruned one by one. A second stage has no masks, and would turn "
            "these zeros into weights again. Use an export of a structured method."
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
            f"{error} `student_export` must name an exported student: run the first stage, whose recipe "
            "has the same name without _stage2, or pass --student <its export, or another published pruned encoder>."
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
            f"{where}: student and teacher of a second stage must have one dense shape, but the student's `{name}` "
            f"is {getattr(found, name)}, and the teacher's {getattr(wanted, name)}. Use the teacher that it was "
            "pruned with."
        )
