"""What `config_model.yaml` may hold for distillation with pruning. Defaults: Wang et al. 2023, WavLM Base, 80 %."""

from dataclasses import dataclass, field
from typing import Literal

from s3prl_pruned.compressors.config import CompressConfig
from s3prl_pruned.config import ADDED, UserError
from s3prl_pruned.former_defaults import is_default
from s3prl_pruned.gates.attach import GateConfig
from s3prl_pruned.gates.multiples import in_words
from s3prl_pruned.gates.self_pinching import SelfPinchingConfig
from s3prl_pruned.models.spec import CompactSpec, EncoderConfig, TimeReduction
from s3prl_pruned.objectives.distill import DistillConfig
from s3prl_pruned.sparsity.config import Target
from s3prl_pruned.sparsity.counts import realised_sparsity
from s3prl_pruned.sparsity.expected import reachable_sparsity
from s3prl_pruned.sparsity.lagrangian import SparsityConfig
from s3prl_pruned.sparsity.targets import Measure, cnn_measure_of, measure_of


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
    """Factor on the gradient into the CNN (DistilHuBERT). The paper is silent. 0 is another, faster recipe: the CNN
    is frozen, and computed once for teacher and student (`benchmarks/step.py` measures both); with gates of the kind
    `conv` its weights are frozen, but the student's masked pass is its own. Masks always get their whole gradient."""

    window: Literal["own", "utterance", "padded"] = field(default="own", metadata=ADDED)
    """Of Whisper's encoders (`EncoderConfig.window`), for teacher and student: `own` is the teacher's own. `padded`, of
    30 s each, is what a student needs that goes back under Whisper's decoder; `utterance` is quicker."""

    time_reduction: TimeReduction | None = field(default=None, metadata=ADDED)
    """A lower frame rate in the student's upper layers, {after: 6, factor: 2}, to save their time beside pruning; the
    distillation compares their states, repeated, with the teacher's. null: the teacher's rate."""

    def validate(self) -> None:
        """Raise UserError where a value is out of its range."""
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"`{name}` must be in [0, 1), but is {getattr(self, name)}.")
        if self.feature_grad_mult < 0:
            raise UserError(f"`feature_grad_mult` must be at least 0, but is {self.feature_grad_mult}.")


@dataclass(kw_only=True)
class ModelConfig:
    """The whole of `config_model.yaml`."""

    teacher: str = "wavlm_base"
    """A name of s3prl's hub such as `wavlm_base` or `hubert_large_ll60k` (downloaded as s3prl does), `embedded`,
    `random` (random weights in the embedded teacher's shape), or the path of a checkpoint in any public format.
    `--teacher` sets it."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """Dropout and the CNN's gradient."""
    student_export: str | None = None
    """Second stage (Peng et al. 2023, DPHuBERT): an exported student, or a pruned encoder that others publish, which
    is distilled again as it is, without masks; `gates` and `sparsity` are left out then. `--student` sets it. null: the
    student starts as the teacher."""
    gates: GateConfig = field(default_factory=GateConfig)
    """Masks."""
    self_pinching: SelfPinchingConfig | None = None
    """Self-pinching gates (Xu et al. 2025) in the place of `gates`."""
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)
    """Target and schedule."""
    compress: CompressConfig | None = None
    """Basic techniques (`compressors/`) in place of gates and their schedule."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """What is learned from the teacher."""

    @property
    def method(self) -> str:
        """For cards."""
        if self.student_export is not None:
            return "second stage (Peng et al. 2023, DPHuBERT): a pruned student distilled again, without masks"
        if self.compress is not None:
            return f"Lin et al. 2024: {' + '.join(self.compress.techniques)}, re-trained by distillation"
        if self.self_pinching is not None:
            multiple = in_words(self.self_pinching.dims_multiple)
            return "Xu et al. 2025: distillation with self-pinching gates, hard 0/1 masks" + multiple
        return "Wang et al. 2023: distillation with hard concrete masks" + in_words(self.gates.dims_multiple)

    @property
    def advice(self) -> str:
        """How to come nearer to a target that was missed."""
        if self.self_pinching is not None:
            return "Train longer, or raise optimizer.gate_lr or optimizer.multiplier_lr."
        coarse = "" if self.gates.dims_multiple is None else ", or gates.dims_multiple is too coarse for this encoder"
        return (
            f"The scalar masks alone decide too much{coarse}: train longer, or ramp more slowly "
            "(sparsity.warmup_fraction)."
        )

    def validate(self) -> None:
        """Raise UserError where a value is out of its range."""
        if self.compress is not None and self.self_pinching is not None:
            raise UserError("`compress` and `self_pinching` are two ways to prune. Give one of them.")
        if self.compress is None and self.distill.prediction_heads:
            raise UserError(
                "`distill.prediction_heads` is of students that `compress` makes. Leave it out, or name techniques."
            )
        idle = [name for name in ("gates", "sparsity") if not is_default(getattr(self, name))]
        idle += [name for name in ("self_pinching", "compress") if getattr(self, name) is not None]
        if self.student_export is not None and idle:
            raise UserError(
                f"`student_export` is given, so nothing is pruned, and `{idle[0]}` would have no effect. Leave it out: "
                "take a recipe whose name ends in _stage2."
            )
        instead = [name for name in ("self_pinching", "compress") if getattr(self, name) is not None]
        if instead and self.sparsity.target.of != "params":
            raise UserError(
                f"`sparsity.target` is of {self.sparsity.target.of}, which `gates` alone can be driven to, but "
                f"`{instead[0]}` is given. Take one of params."
            )
        if instead and self.gates.dims_multiple is not None:
            own = " `self_pinching` has a `dims_multiple` of its own." if self.self_pinching is not None else ""
            raise UserError(f"`gates.dims_multiple` is for `gates`, but `{instead[0]}` is given. Leave it out.{own}")
        if instead and self.sparsity.cnn_target is not None:
            raise UserError(f"`sparsity.cnn_target` is for `gates`, but `{instead[0]}` is given. Leave it out.")

    def check_target(self, encoder: EncoderConfig, spec: CompactSpec | None = None) -> None:
        """Raise UserError when the gates cannot end as they are to on this encoder, of which `spec` is left.

        That is in `dims_multiple`, and at the targets.
        """
        spec, measure = spec or CompactSpec.dense(encoder), measure_of(self.sparsity, encoder)
        (self.self_pinching or self.gates).check_multiple(spec, encoder)
        if measure.is_sparsity:
            check_target(self.sparsity.goal, self.self_pinching or self.gates, encoder, spec)
        else:
            self._check_reach("target", measure, self.sparsity.target, spec)
        cnn = cnn_measure_of(self.sparsity, encoder)
        if cnn is not None and self.sparsity.cnn_target is not None:
            self._check_reach("cnn_target", cnn, self.sparsity.cnn_target, spec)

    def _check_reach(self, key: str, measure: Measure, target: Target, spec: CompactSpec) -> None:
        lowest, highest = measure.of(spec), measure.reachable(self.gates, spec)
        if not lowest <= target.share <= highest:
            quantity = measure.quantity
            raise UserError(
                f"`sparsity.{key}` is a {quantity.key} of {quantity.shown(target.share):g}, but gates of the kinds "
                f"{list(self.gates.kinds)} reach {quantity.shown(lowest):.3f} to {quantity.shown(highest):.3f} on "
                "this encoder. Choose one between, or add kinds (`conv`: the CNN)."
            )


def check_target(
    target: float, gates: GateConfig | SelfPinchingConfig, encoder: EncoderConfig, spec: CompactSpec
) -> None:
    """Raise UserError when gates cannot bring an encoder, of which `spec` is left, to a target sparsity."""
    lowest, highest = realised_sparsity(encoder, spec), reachable_sparsity(encoder, gates, spec)
    if target > highest:
        raise UserError(
            f"`sparsity.target.share` is {target}, but gates of the kinds {list(gates.kinds)} reach {highest:.5f} at "
            f"most on this encoder (from {lowest:.4f}). Lower it, or add kinds."
        )
    if target < lowest:
        raise UserError(
            f"`sparsity.target.share` is {target}, but this encoder is pruned already and has {lowest:.4f}; gates of "
            f"the kinds {list(gates.kinds)} reach {lowest:.4f} to {highest:.4f}. Raise it, or start from a dense model."
        )
