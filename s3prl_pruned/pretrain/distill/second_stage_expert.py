"""The pre-training expert for a second stage: a pruned, exported student is distilled again, without masks.

DPHuBERT's second training step (Peng et al. 2023): what pruning left learns from the same teacher with its whole capacity. As
`pretrain_expert.py`, with nothing to draw, to count or to cut.
"""

from dataclasses import fields, replace

import torch
from torch import nn

from s3prl_pruned.compressors.magnitude import weights_left
from s3prl_pruned.config import UserError
from s3prl_pruned.export.formats import load_encoder, model_hash
from s3prl_pruned.gates.attach import GateSet
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import EncoderConfig
from s3prl_pruned.objectives.distill import LayerDistillation
from s3prl_pruned.pretrain.distill.config import ModelConfig
from s3prl_pruned.pretrain.distill.model import remaining_units, student_shape
from s3prl_pruned.pretrain.distill.pretrain_expert import UpstreamPretrainExpert
from s3prl_pruned.sparsity.counts import prunable_weights, realised_sparsity

_OF_TRAINING = ("dropout", "attention_dropout", "activation_dropout", "feature_grad_mult")


class SecondStageForPretrain(nn.Module):
    """The student, from its export, and the objective. There are no gates (`gates` is of no kind) and no multipliers.

    Attributes:
        first_stage: hash and provenance of the export.
    """

    def __init__(self, teacher: SpeechEncoder, config: ModelConfig):
        super().__init__()
        exported, provenance = _load(config.student_export)
        shape = student_shape(teacher, config.student)
        _check_shape(exported.config, shape, config.student_export)
        if weights_left(exported) < prunable_weights(exported.config, exported.spec):
            raise UserError(
                f"{config.student_export}: weights of it are pruned one by one, and a second stage, which knows no masks, would train "
                "their zeros away. Take an export of a structured method."
            )
        self.first_stage = {"sha256": model_hash(config.student_export), **provenance}
        self.teacher = teacher.eval().requires_grad_(False)
        self.student = SpeechEncoder(shape, exported.spec)
        self.student.load_state_dict(exported.state_dict())
        same_cnn = _equal(self.student.feature_extractor, teacher.feature_extractor)
        self.shares_features = config.student.feature_grad_mult == 0 and same_cnn
        self.distillation = LayerDistillation(num_layers=shape.num_layers, embed_dim=shape.embed_dim, config=config.distill)
        self.gates = GateSet(exported.spec, replace(config.gates, kinds=()))
        self.lagrangian = nn.Module()

    def train(self, mode: bool = True) -> "SecondStageForPretrain":
        """The teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self


class SecondStagePretrainExpert(UpstreamPretrainExpert):
    """s3prl's interface; arguments as `UpstreamPretrainExpert`. `upstream_config.student_export` must be given."""

    make_model = SecondStageForPretrain

    @property
    def target_sparsity(self) -> float:
        """What the student has, and keeps."""
        return realised_sparsity(self.model.student.config, self.model.student.spec)

    @property
    def aim(self) -> str:
        """In words."""
        return f"second stage without masks, from {self.upstream_config.student_export} (sparsity {self.target_sparsity:.4g})"

    def end_backward(self, records: dict[str, float], *, loss_scale: float = 1.0) -> None:
        """Record the sparsity; there are no gates to train."""
        records.update(expected_sparsity=self.target_sparsity, target_sparsity=self.target_sparsity)

    def log_records(self, records: dict) -> dict:
        """What is written every `log_step`: the records, the matched pairs, and what there is of each layer's units (all)."""
        teacher_layers, spec = self.model.distillation.teacher_layers, self.model.student.spec
        pairs = [[teacher_layers[k], j + 1] for k, j in self._step.pairs]
        remaining = remaining_units(spec, self.model.teacher.spec)
        return {**records, "realised_sparsity": self.target_sparsity, "pairs": pairs, "remaining": remaining}

    def add_state_to_save(self, all_states: dict) -> dict:
        """As there, and which export the student began as."""
        super().add_state_to_save(all_states)
        all_states["Target_Sparsity"] = self.target_sparsity
        all_states["First_Stage"] = self.model.first_stage
        return all_states

    def load_model(self, all_states: dict) -> None:
        """The reverse of `add_state_to_save`.

        Raises:
            UserError: the run was started from another export than now stands in the folder.
        """
        if all_states["First_Stage"]["sha256"] != self.model.first_stage["sha256"]:
            raise UserError(
                f"{self.upstream_config.student_export}: is not the export any more that this run was started from (sha256 "
                f"{all_states['First_Stage']['sha256'][:12]}). Put that back, or start another run (-n NAME)."
            )
        super().load_model(all_states)


def _load(folder: str) -> tuple[SpeechEncoder, dict]:
    try:
        return load_encoder(folder)
    except UserError as error:
        raise UserError(
            f"{error} `student_export` must name an exported student: run the first stage, whose recipe is named without "
            "_stage2, or give --student <its export>."
        ) from error


def _check_shape(found: EncoderConfig, wanted: EncoderConfig, where: str) -> None:
    differing = [f.name for f in fields(EncoderConfig) if f.name not in _OF_TRAINING and getattr(found, f.name) != getattr(wanted, f.name)]
    if differing:
        name = differing[0]
        raise UserError(
            f"{where}: a second stage needs a student and a teacher of one dense shape, but `{name}` of the student's is "
            f"{getattr(found, name)}, and of the teacher's {getattr(wanted, name)}. Give the teacher that it was pruned with."
        )


def _equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules hold the same weights, bit for bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
