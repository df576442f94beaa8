"""What `config_model.yaml` may hold for distillation with pruning. Defaults: Wang et al. 2023, WavLM Base, 80 %."""

from dataclasses import dataclass, field

from s3prl_pruned.config import UserError
from s3prl_pruned.gates.attach import GateConfig
from s3prl_pruned.models.spec import EncoderConfig
from s3prl_pruned.objectives.distill import DistillConfig
from s3prl_pruned.sparsity.expected import reachable_sparsity
from s3prl_pruned.sparsity.lagrangian import SparsityConfig


@dataclass(kw_only=True)
class StudentConfig:
    """How the student differs from the teacher in training; its weights start as the teacher's."""

    dropout: float = 0.1
    """After each sublayer (DistilHuBERT). The paper is silent. It means that the student is not quite the teacher at
    step 0; 0 where the steps are few."""

    attention_dropout: float = 0.1
    """Of attention weights (DistilHuBERT)."""

    activation_dropout: float = 0.1
    """Of intermediate feed-forward elements (DistilHuBERT)."""

    feature_grad_mult: float = 0.1
    """Factor on the gradient into the CNN (DistilHuBERT). The paper is silent. 0 is another, faster recipe: the CNN is
    frozen, and computed once for teacher and student (`benchmarks/step.py` measures both)."""

    def validate(self) -> None:
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"`{name}` must be in [0, 1), but is {getattr(self, name)}.")
        if self.feature_grad_mult < 0:
            raise UserError(f"`feature_grad_mult` must be at least 0, but is {self.feature_grad_mult}.")


@dataclass(kw_only=True)
class ModelConfig:
    """The whole of `config_model.yaml`."""

    teacher: str = "wavlm_base"
    """A name of s3prl's hub such as `wavlm_base` or `hubert_large_ll60k` (downloaded as s3prl does), `embedded`, `random`
    (random weights in the embedded teacher's shape), or the path of a checkpoint in any public format. `--teacher` sets it."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """Dropout and the CNN's gradient."""
    gates: GateConfig = field(default_factory=GateConfig)
    """Masks."""
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)
    """Target and schedule."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """What is learned from the teacher."""

    def check_target(self, encoder: EncoderConfig) -> None:
        """Raise UserError when the gates cannot reach the target on this encoder."""
        reachable = reachable_sparsity(encoder, self.gates)
        if self.sparsity.target_sparsity > reachable:
            raise UserError(
                f"`target_sparsity` is {self.sparsity.target_sparsity}, but gates of the kinds "
                f"{list(self.gates.kinds)} reach {reachable:.4f} at most on this encoder. Lower it, or add kinds."
            )
