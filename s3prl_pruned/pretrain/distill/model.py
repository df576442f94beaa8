"""What is trained in distillation with pruning: student, map, gates, multipliers; and what they share with other experts."""

from dataclasses import replace

from torch import nn

from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec, EncoderConfig
from s3prl_pruned.objectives.distill import LayerDistillation
from s3prl_pruned.pretrain.distill.config import ModelConfig, StudentConfig
from s3prl_pruned.sparsity.lagrangian import Lagrangian
from s3prl_pruned.sparsity.targets import cnn_measure_of, measure_of

_UNITS = {
    "heads": lambda layer: len(layer.heads),
    "qk": lambda layer: sum(len(head.qk) for head in layer.heads),
    "vo": lambda layer: sum(len(head.vo) for head in layer.heads),
    "ffn": lambda layer: len(layer.ffn),
}
"""Units of a layer that masks remove, by name in the log."""


def remaining_units(kept: CompactSpec, whole: CompactSpec) -> dict[str, list[float]]:
    """Shares of each layer's units that remain, by kind (0 where there were none)."""
    pairs = [(after, before) for after, before in zip(kept.layers, whole.layers, strict=True)]
    return {kind: [count(after) / (count(before) or 1) for after, before in pairs] for kind, count in _UNITS.items()}


def student_shape(teacher: SpeechEncoder, config: StudentConfig) -> EncoderConfig:
    """The teacher's shape with the student's settings of training."""
    return replace(
        teacher.config,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_dropout=config.activation_dropout,
        feature_grad_mult=config.feature_grad_mult,
    )


class DistillForPretrain(nn.Module):
    """Everything that is trained: the student, W, the gates, the multipliers. And the teacher, which is not.

    `shares_features`: whether the student's CNN stays the teacher's, bit for bit, so that one pass serves both.
    """

    def __init__(self, teacher: SpeechEncoder, config: ModelConfig):
        super().__init__()
        shape = student_shape(teacher, config.student)
        config.check_target(shape, teacher.spec)
        self.teacher = teacher.eval().requires_grad_(False)
        self.student = SpeechEncoder(shape, teacher.spec)
        self.student.load_state_dict(teacher.state_dict())
        self.shares_features = config.student.feature_grad_mult == 0 and "conv" not in config.gates.kinds
        self.distillation = LayerDistillation(num_layers=shape.num_layers, embed_dim=shape.embed_dim, config=config.distill)
        self.gates = config.make_gates(teacher.spec, shape)
        self.measure, self.cnn_measure = measure_of(config.sparsity, shape), cnn_measure_of(config.sparsity, shape)
        self.lagrangian = Lagrangian(cnn=self.cnn_measure is not None)

    def train(self, mode: bool = True) -> "DistillForPretrain":
        """The teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self
