"""From a trained student, or any of its checkpoints, to an exported encoder that is proven equal to it."""

import datetime
from pathlib import Path

import torch

from s3prl_pruned import checkpoint
from s3prl_pruned.compressors.compressor import standing_masks
from s3prl_pruned.compressors.magnitude import weights_left
from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.export.formats import TOLERANCE, model_hash, relative_difference, save_encoder
from s3prl_pruned.export.masks import FinalMasks, export_compact, final_masks, zero_weights
from s3prl_pruned.gates.self_pinching import SelfPinchingGates
from s3prl_pruned.models.compact import surviving_spec
from s3prl_pruned.models.encoder import LayerMasks, SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec, EncoderConfig
from s3prl_pruned.pretrain.asr.config import AsrModelConfig
from s3prl_pruned.pretrain.asr.recognizer import HEAD_NOTE, head_files
from s3prl_pruned.pretrain.distill.config import ModelConfig
from s3prl_pruned.sparsity.counts import prunable_weights, realised_sparsity, sparsity
from s3prl_pruned.sparsity.expected import expected_sparsity
from s3prl_pruned.sparsity.latency import latency_table
from s3prl_pruned.sparsity.targets import cnn_measure_of, measure_of

CONFIGS = {"distill": ModelConfig, "asr": AsrModelConfig}
"""What `Upstream_Config` of a checkpoint is, by its `Objective`."""


def masked_student(path: str | Path) -> tuple[SpeechEncoder, FinalMasks, dict]:
    """Rebuild the student of a training checkpoint with its deterministic masks in its slots.

    Args:
        path: a `states-*.ckpt` of `run_pretrain.py`.

    Returns:
        The encoder (fp32, CPU, eval mode, masks applied), the masks, and the export's provenance.

    Raises:
        UserError: the file is damaged, or no such checkpoint.
    """
    state = checkpoint.load_checkpoint(path, mapped=True)  # the optimiser's state stays on disk
    needed = ("Student", "Gates", "Encoder_Config", "Upstream_Config", "Teacher", "Step", "Config", "Seed", "Versions")
    missing = [key for key in needed if key not in state]
    if missing:
        raise UserError(f"{path}: is no training checkpoint of run_pretrain.py; it lacks {missing}.")
    shape = from_dict(EncoderConfig, state["Encoder_Config"], f"{path}: Encoder_Config")
    kind = CONFIGS[state.get("Objective", "distill")]
    config = from_dict(kind, state["Upstream_Config"], f"{path}: Upstream_Config")
    spec = from_dict(CompactSpec, state["Spec"], f"{path}: Spec") if "Spec" in state else CompactSpec.dense(shape)
    encoder = SpeechEncoder(shape, spec).eval()
    try:
        encoder.load_state_dict(state["Student"], assign=True)  # no second copy
        final, figures = _final(state, config, encoder, str(path))
    except RuntimeError as error:
        raise UserError(f"{path}: its weights do not fit its configuration: {error}") from error
    encoder.set_masks(final.masks, final.conv_masks)
    zero_weights(encoder, final.matrices)
    provenance = {
        "method": config.method,
        "teacher": {"name": state["Teacher"]["name"], "sha256": state["Teacher"]["sha256"]},
        "teacher_note": state["Teacher"]["note"],
        "step": state["Step"],
        "total_steps": state["Config"]["runner"]["total_steps"],
        "seed": state["Seed"],
        "sparsity": {
            "target": state.get("Target_Sparsity", config.sparsity.target_sparsity),
            "expected": figures.pop("expected"),
            "rounded": final.rounded_sparsity,
            "realised": final.sparsity,
            "shift_of_dimension_gates": final.shift,
        }
        | figures,
        **({"first_stage": state["First_Stage"]} if "First_Stage" in state else {}),
        **({"ctc_head": HEAD_NOTE} if "Head" in state else {}),
        "recipe": {"model": state["Upstream_Config"], "runner": state["Config"]},
        "versions": state["Versions"],
        "date": datetime.date.today().isoformat(),
    }
    return encoder, final, provenance


def _final(state: dict, config: ModelConfig | AsrModelConfig, encoder: SpeechEncoder, where: str) -> tuple[FinalMasks, dict]:
    """The masks of a checkpoint, and figures of them: the sparsity that was `expected` (where they are 0 and 1, what it is),
    those of the target where it was of MACs or time (`target`, of the sparsity, is None then), and of the CNN's own (`cnn`)."""
    if isinstance(config, ModelConfig) and config.compress is not None:
        masks = standing_masks(state["Gates"], len(encoder.layers))
        spec = surviving_spec(encoder.spec, masks)
        left = min(weights_left(encoder), prunable_weights(encoder.config, spec))  # what is masked may be zero as well
        reached = sparsity(left, encoder.config, with_cnn=spec.channels is not None)
        return FinalMasks(masks, {}, spec, reached, reached, 0.0, 0.0, reached), {"expected": reached}
    if isinstance(config, ModelConfig) and config.student_export is not None:
        reached = realised_sparsity(encoder.config, encoder.spec)
        nothing = [LayerMasks() for _ in encoder.layers]
        return FinalMasks(nothing, {}, encoder.spec, reached, reached, 0.0, 0.0, reached), {"expected": reached}
    gates = config.make_gates(encoder.spec, encoder.config)
    gates.load_state_dict(state["Gates"])
    if isinstance(gates, SelfPinchingGates):
        final = final_masks(gates, encoder, config.sparsity)
        return final, {"expected": final.sparsity}
    table = latency_table(state["Latency_Table"], where) if "Latency_Table" in state else None
    measure = measure_of(config.sparsity, encoder.config, table)
    final = final_masks(gates, encoder, config.sparsity, table)
    figures = {"expected": float(expected_sparsity(gates, encoder.config).detach())}
    if (cnn := cnn_measure_of(config.sparsity, encoder.config, table)) is not None:
        figures["cnn"] = {
            "target": config.sparsity.target_cnn, "expected": float(cnn.expected(gates).detach()), "realised": cnn.of(final.spec),
            "shift_of_channel_gates": final.cnn_shift, "of": "time by the latency table" if cnn.table else "MACs",
        }  # fmt: skip
    if measure.name == "sparsity":
        return final, figures
    of = {"target": config.sparsity.goal, "expected": float(measure.expected(gates).detach()), "realised": final.reached}
    of = {name: measure.shown(share) for name, share in of.items()}
    if measure.table is None:
        of["utterance_seconds"] = config.sparsity.utterance_seconds
    else:
        of |= {"utterance_seconds": measure.table.utterance_seconds, "measured": to_dict(measure.table.measured)}
    return final, {**figures, "target": None, measure.name: of}


def compact_student(path: str | Path) -> tuple[SpeechEncoder, dict]:
    """The smaller encoder of a training checkpoint, and its provenance.

    Args:
        path: a `states-*.ckpt`.

    Raises:
        UserError: it does not compute what the masked student computes, or anything of `masked_student`.
    """
    student, final, provenance = masked_student(path)
    generator = torch.Generator().manual_seed(0)
    wavs, lengths = torch.randn(2, 16_000, generator=generator) * 0.1, torch.tensor([16_000, 11_000])
    with torch.no_grad():
        expected = student(wavs, lengths).hidden_states
        small = export_compact(student, final.masks, final.spec, final.conv_masks, in_place=True)
        difference = relative_difference(small(wavs, lengths).hidden_states, expected)
    if not difference <= TOLERANCE:  # NaN too
        raise UserError(
            f"{path}: the exported encoder differs from the masked student by {difference:.1e} (relative), and at "
            f"most {TOLERANCE:.0e} is rounding. Nothing was written; please report this."
        )
    return small, provenance


def export_checkpoint(path: str | Path, folder: str | Path) -> SpeechEncoder:
    """Export a training checkpoint as a smaller encoder, with its CTC head beside it where it has one.

    Args:
        path: a `states-*.ckpt`.
        folder: to write; must not exist.

    Raises:
        UserError: anything of `compact_student` (nothing is written then) and `save_encoder`.
    """
    small, provenance = compact_student(path)
    save_encoder(folder, small, provenance, files=head_files(path))
    return small


def describe_export(folder: str | Path) -> str:
    """Where an export is and what identifies it, in one line."""
    return f"{folder} (sha256 {model_hash(folder)[:12]})"
