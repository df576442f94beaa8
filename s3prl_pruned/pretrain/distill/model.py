"""Modules that are trained in distillation with pruning, and the pruner that a recipe sets."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from s3prl_pruned.compressors.compressor import Compressor
from s3prl_pruned.compressors.magnitude import weights_left
from s3prl_pruned.compressors.plan import Plan, make_plan
from s3prl_pruned.models.accelerate import accelerate, of_teacher
from s3prl_pruned.models.encoder import SpeechEncoder, in_window
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.objectives.distill import LayerDistillation
from s3prl_pruned.objectives.prediction_heads import PredictionHeads
from s3prl_pruned.pretrain.distill.config import ModelConfig, StudentConfig
from s3prl_pruned.pretrain.distill.second_stage import second_stage
from s3prl_pruned.pretrain.expert import Trained
from s3prl_pruned.pretrain.pruners.control import LagrangianControl
from s3prl_pruned.pretrain.pruners.hard_concrete import HardConcretePruner
from s3prl_pruned.pretrain.pruners.nothing import NoPruner
from s3prl_pruned.pretrain.pruners.pruner import Pruner
from s3prl_pruned.pretrain.pruners.self_pinching import SelfPinchingPruner
from s3prl_pruned.pretrain.pruners.techniques import TechniquesPruner
from s3prl_pruned.sparsity.latency import LatencyTable, latency_table


def student_shape(teacher: SpeechEncoder, config: StudentConfig) -> EncoderConfig:
    """The teacher's shape with the training settings of the student."""
    return replace(
        teacher.config,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_dropout=config.activation_dropout,
        feature_grad_mult=config.feature_grad_mult,
        window=teacher.config.window if config.window == "own" else config.window,
        time_reduction=config.time_reduction or teacher.config.time_reduction,
    )


class DistillForPretrain(Trained):
    """All trained modules (student, maps of the objective, gates, multipliers), and the teacher, which is not trained.

    Attributes:
        pruner: pruner of the student.
        shares_features: whether the student's CNN stays bit-identical to the teacher's, so that one pass serves both.
    """

    def __init__(self, teacher: SpeechEncoder, config: ModelConfig, *, seed: int):
        super().__init__()
        teacher = in_window(teacher, config.student.window)
        self.teacher = of_teacher(teacher.eval().requires_grad_(False))
        self.pruner = new_pruner(teacher, config, seed=seed)
        self.student = accelerate(self.pruner.student)
        shape = self.student.config
        objective: type[LayerDistillation] | type[PredictionHeads]
        objective = PredictionHeads if config.distill.prediction_heads else LayerDistillation
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # for prediction heads
            self.distillation = objective(num_layers=shape.num_layers, embed_dim=shape.embed_dim, config=config.distill)
        self.gates, self.lagrangian = self.pruner.gates, self.pruner.multipliers
        frozen = config.student.feature_grad_mult == 0 and "conv" not in config.gates.kinds
        self.shares_features = frozen and _equal(self.student.feature_extractor, teacher.feature_extractor)

    def train(self, mode: bool = True) -> "DistillForPretrain":
        """Set the mode of all modules except the teacher, which stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self


def new_pruner(teacher: SpeechEncoder, config: ModelConfig, *, seed: int) -> Pruner:
    """The pruner of a new run, with its student: a copy of the teacher, or in a second stage an export.

    Raises:
        UserError: the target cannot be reached on this encoder, or the export does not fit a second stage.
    """
    shape = student_shape(teacher, config.student)
    if config.student_export is not None:
        return NoPruner(*second_stage(config.student_export, shape))
    if config.compress is None:
        config.check_target(shape, teacher.spec)
    student = SpeechEncoder(shape, teacher.spec)
    student.load_state_dict(teacher.state_dict())
    if config.compress is None:
        return _with_gates(student, config, seed=seed)
    compressor = Compressor(make_plan(student, config.compress, config.sparsity), config.compress)
    compressor.refuse_coarse(config.sparsity.tolerance)
    return TechniquesPruner(compressor)


def pruner_of_checkpoint(student: SpeechEncoder, config: ModelConfig, states: dict[str, Any], where: str) -> Pruner:
    """The pruner of a checkpoint, used for its final masks.

    Args:
        student: with the checkpoint's weights.
        config: configuration of the run.
        states: content of the checkpoint.
        where: name of the checkpoint in messages.

    Raises:
        UserError: the latency table in the checkpoint is damaged.
    """
    if config.student_export is not None:
        return NoPruner(student)
    if config.compress is not None:
        plan = Plan(student, weights_left(student), {}, states["Target_Sparsity"])
        return TechniquesPruner(Compressor(plan, config.compress))
    table = latency_table(states["Latency_Table"], where) if "Latency_Table" in states else None
    return _with_gates(student, config, seed=states["Seed"], table=table)


def _with_gates(
    student: SpeechEncoder, config: ModelConfig, *, seed: int, table: LatencyTable | None = None
) -> HardConcretePruner | SelfPinchingPruner:
    control = LagrangianControl(config.sparsity, student.config, table)
    if config.self_pinching is not None:
        return SelfPinchingPruner(student, config.self_pinching, control)
    return HardConcretePruner(student, config.gates, control, seed=seed)


def _equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules have identical weights, bit for bit."""
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
