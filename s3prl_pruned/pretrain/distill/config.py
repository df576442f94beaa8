"""Configuration in `config_model.yaml` for distillation with pruning. Defaults: Wang et al. 2023, WavLM Base, 80 %."""

from dataclasses import dataclass, field
from typing import Literal

from s3prl_pruned.compressors.config import CompressConfig
from s3prl_pruned.config import ADDED, UserError
from s3prl_pruned.former_defaults import is_default
from s3prl_pruned.gates.attach import GateConfig
from s3prl_pruned.gates.multiples import in_words
from s3prl_pruned.gates.self_pinching import SelfPinchingConfig
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.models.time_reduction import TimeReduction
from s3prl_pruned.objectives.distill import DistillConfig
from s3prl_pruned.sparsity.config import Target
from s3prl_pruned.sparsity.counts import realised_sparsity
from s3prl_pruned.sparsity.expected import reachable_sparsity
from s3prl_pruned.sparsity.lagrangian import SparsityConfig
from s3prl_pruned.sparsity.targets import Measure, cnn_measure_of, measure_of


@dataclass(kw_only=True)
class StudentConfig:
    """Differences between student and teacher in training; the student's weights start as the teacher's."""

    dropout: float = 0.1
    """Dropout after each sublayer (DistilHuBERT; not stated in the paper). With dropout, the student differs from the
    teacher at step 0; use 0 for short runs."""

    attention_dropout: float = 0.1
    """Dropout of attention weights (DistilHuBERT)."""

    activation_dropout: float = 0.1
    """Dropout of intermediate feed-forward activations (DistilHuBERT)."""

    feature_grad_mult: float = 0.1
    """Factor on the gradient into the CNN (DistilHuBERT; not stated in the paper). 0 is a different, faster recipe: the
    CNN is frozen, and computed once for teacher and student (`benchmarks/step.py` measures both). With gates of the
    kind `conv`, its weights are frozen, but the student has a masked pass of its own. Gradients of masks are never
    scaled."""

    window: Literal["own", "utterance", "padded"] = field(default="own", metadata=ADDED)
    """For Whisper's encoders (`EncoderConfig.window`), teacher and student: `own` is the teacher's. Use `padded` (30 s
    each) for a student that will be put back under Whisper's decoder; `utterance` is faster."""

    time_reduction: TimeReduction | None = field(default=None, metadata=ADDED)
    """A lower frame rate in the student's upper layers, {after: 6, factor: 2}, to save their time beside pruning; the
    distillation compares their states, repeated, with the teacher's. null: the teacher's rate."""

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"`{name}` must be in [0, 1), but is {getattr(self, name)}.")
        if self.feature_grad_mult < 0:
            raise UserError(f"`feature_grad_mult` must be at least 0, but is {self.feature_grad_mult}.")


@dataclass(kw_only=True)
class ModelConfig:
    """All of `config_model.yaml`."""

    teacher: str = "wavlm_base"
    """A name in s3prl's hub such as `wavlm_base` or `hubert_large_ll60k` (downloaded as in s3prl), `embedded`, `random`
    (the embedded teacher's shape with random weights), or the path of a checkpoint in any public format. `--teacher`
    sets it."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """Dropout, and the gradient of the CNN."""
    student_export: str | None = None
    """Second stage (Peng et al. 2023, DPHuBERT): an exported student, or a pruned encoder published by others, that is
    distilled again without masks; `gates` and `sparsity` must then be left out. `--student` sets it. null: the student
    starts as the teacher."""
    gates: GateConfig = field(default_factory=GateConfig)
    """Kinds and settings of the masks."""
    self_pinching: SelfPinchingConfig | None = None
    """Self-pinching gates (Xu et al. 2025), used instead of `gates`."""
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)
    """Target and its schedule."""
    compress: CompressConfig | None = None
    """Basic techniques (`compressors/`), used instead of gates."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """The distillation loss."""

    @property
    def method(self) -> str:
        """Name of the method, for cards."""
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
        """Advice for a target that was missed."""
        if self.self_pinching is not None:
            return "Train longer, or raise optimizer.gate_lr or optimizer.multiplier_lr."
        coarse = "" if self.gates.dims_multiple is None else ", or gates.dims_multiple is too coarse for this encoder"
        return (
            f"Scalar masks alone already miss it{coarse}: train longer, or ramp more slowly (sparsity.warmup_fraction)."
        )

    def validate(self) -> None:
        """Raise UserError if a value is out of its range."""
        if self.compress is not None and self.self_pinching is not None:
            raise UserError("`compress` and `self_pinching` are two ways to prune. Keep one of them.")
        if self.compress is None and self.distill.prediction_heads:
            raise UserError(
                "`distill.prediction_heads` is for students made by `compress`. Leave it out, or set `compress`."
            )
        idle = [name for name in ("gates", "sparsity") if not is_default(getattr(self, name))]
        idle += [name for name in ("self_pinching", "compress") if getattr(self, name) is not None]
        if self.student_export is not None and idle:
            raise UserError(
                f"`student_export` is set, so nothing is pruned, and `{idle[0]}` would have no effect. Leave it out: "
                "use a recipe whose name ends in _stage2."
            )
        if self.student_export is not None and self.student.time_reduction is not None:
            raise UserError(
                "`student_export` is set and keeps its own frame rate; `student.time_reduction` would have no effect. "
                "Leave it out."
            )
        instead = [name for name in ("self_pinching", "compress") if getattr(self, name) is not None]
        if instead and self.sparsity.target.of != "params":
            raise UserError(
                f"`sparsity.target` is of {self.sparsity.target.of}, which only `gates` can reach, but "
                f"`{instead[0]}` is set. Use a target of params."
            )
        if instead and self.gates.dims_multiple is not None:
            own = " `self_pinching` has a `dims_multiple` of its own." if self.self_pinching is not None else ""
            raise UserError(f"`gates.dims_multiple` is for `gates`, but `{instead[0]}` is set. Leave it out.{own}")
        for key in ("cnn_target", "also"):
            if instead and getattr(self.sparsity, key):
                raise UserError(f"`sparsity.{key}` is for `gates`, but `{instead[0]}` is set. Leave it out.")

    def check_target(self, encoder: EncoderConfig, spec: CompactSpec | None = None) -> None:
        """Raise UserError if the gates cannot meet `dims_multiple` or their targets on this encoder.

        `spec` is its structure if it is already pruned.
        """
        spec, measure = spec or CompactSpec.dense(encoder), measure_of(self.sparsity, encoder)
        (self.self_pinching or self.gates).check_multiple(spec, encoder)
        if measure.is_sparsity:
            check_target(self.sparsity.goal, self.self_pinching or self.gates, encoder, spec)
        else:
            self._check_reach("target", measure, self.sparsity.target, spec)
        for (other, _), target in zip(measure.also, self.sparsity.also, strict=True):
            self._check_reach("also", other, target, spec)
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
                "this encoder. Choose a value between these, or add kinds (`conv`: the CNN)."
            )


def check_target(
    target: float, gates: GateConfig | SelfPinchingConfig, encoder: EncoderConfig, spec: CompactSpec
) -> None:
    """Raise UserError if gates cannot bring an encoder with the structure `spec` to a target sparsity."""
    lowest, highest = realised_sparsity(encoder, spec), reachable_sparsity(encoder, gates, spec)
    if target > highest:
        raise UserError(
            f"`sparsity.target.share` is {target}, but gates of the kinds {list(gates.kinds)} reach {highest:.5f} at "
            f"most on this encoder (from {lowest:.4f}). Lower it, or add kinds."
        )
    if target < lowest:
        raise UserError(
            f"`sparsity.target.share` is {target}, but this encoder is already pruned to {lowest:.4f}; gates of "
            f"the kinds {list(gates.kinds)} reach {lowest:.4f} to {highest:.4f}. Raise it, or start from a dense model."
        )
