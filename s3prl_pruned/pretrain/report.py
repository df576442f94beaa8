"""What a finished run says of its target: lines for the screen."""

from s3prl_pruned.pretrain.asr.config import AsrModelConfig
from s3prl_pruned.pretrain.distill.config import ModelConfig


def target_lines(model: ModelConfig | AsrModelConfig, figures: dict) -> list[str]:
    """What was the target, and what became of it.

    Args:
        model: the run's.
        figures: `sparsity` of the export's provenance.
    """
    of = next((name for name in ("macs", "speedup") if name in figures), "sparsity")
    reached = figures if of == "sparsity" else figures[of]
    target, realised, expected = (reached[kind] for kind in ("target", "realised", "expected"))
    lines = [f"sparsity: realised {100 * figures['realised']:.2f} %, expected {100 * figures['expected']:.2f} %"]
    if of == "sparsity":
        lines = [f"sparsity: realised {100 * realised:.2f} %, target {100 * target:.2f} %, expected {100 * expected:.2f} %"]
    elif of == "macs":
        lines.append(f"MACs for {reached['utterance_seconds']:g} s: realised -{100 * realised:.2f} %, target -{100 * target:.2f} %, expected -{100 * expected:.2f} %")  # fmt: skip
    else:
        lines.append(f"speed-up by the latency table ({reached['measured']['machine']}): realised {realised:.3f}, target {target:.3f}, expected {expected:.3f}")  # fmt: skip
        target, realised = 1 - 1 / target, 1 - 1 / realised  # the tolerance is of the share that goes
    if abs(realised - target) > model.sparsity.tolerance:
        lines.append(f"WARNING: the target is missed. {_advice(model)}")
    if (cnn := figures.get("cnn")) is not None:
        lines.append(f"the CNN's {cnn['of']}: " + ", ".join(f"{kind} -{100 * cnn[kind]:.2f} %" for kind in ("realised", "target", "expected")))
        if abs(cnn["realised"] - cnn["target"]) > model.sparsity.tolerance:
            lines.append("WARNING: the CNN's target is missed: it has too few channels to come nearer, or sparsity.match_target is off.")
    return lines


def _advice(model: ModelConfig | AsrModelConfig) -> str:
    """How to come nearer to the target sparsity."""
    if isinstance(model, AsrModelConfig):
        return "Train longer, or raise sparsity.size_weight or optimizer.gate_lr."
    if model.self_pinching is not None:
        return "Train longer, or raise optimizer.gate_lr or optimizer.multiplier_lr."
    return "The scalar masks alone decide too much: train longer, or ramp more slowly (sparsity.warmup_fraction)."
