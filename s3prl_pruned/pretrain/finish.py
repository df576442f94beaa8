"""From a trained student, or any of its checkpoints, to an exported encoder that is checked to be equal to it."""

import datetime
from pathlib import Path
from typing import Any

import torch

from s3prl_pruned import checkpoint
from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.export.inert import inert_share
from s3prl_pruned.export.masks import FinalMasks, export_compact, zero_weights
from s3prl_pruned.formats.folder import TOLERANCE, encoder_for, model_hash, relative_difference, save_encoder
from s3prl_pruned.former_defaults import as_before
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.spec import CompactSpec, EncoderConfig
from s3prl_pruned.pretrain.asr.recognizer import HEAD_NOTE, head_files
from s3prl_pruned.pretrain.objectives import OBJECTIVES


def masked_student(path: str | Path) -> tuple[SpeechEncoder, FinalMasks, dict[str, Any]]:
    """Rebuild the student of a training checkpoint, with its final masks in its slots.

    Args:
        path: a `states-*.ckpt` of `run_pretrain.py`.

    Returns:
        The encoder (fp32, CPU, evaluation mode, masks applied), the masks, and the provenance of an export.

    Raises:
        UserError: the file is damaged, or is not such a checkpoint.
    """
    try:
        return _rebuilt(path, checkpoint.load_checkpoint(path, mapped=True))  # the optimiser's state stays on disk
    except (LookupError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: its parts do not fit each other: {error!r}. Copy it again.") from error


def _rebuilt(path: str | Path, state: dict[str, Any]) -> tuple[SpeechEncoder, FinalMasks, dict[str, Any]]:
    needed = ("Student", "Gates", "Encoder_Config", "Upstream_Config", "Teacher", "Step", "Config", "Seed", "Versions")
    missing = [key for key in needed if key not in state]
    if missing:
        raise UserError(f"{path}: is not a training checkpoint of run_pretrain.py; it lacks {missing}.")
    shape = from_dict(EncoderConfig, state["Encoder_Config"], f"{path}: Encoder_Config")
    objective = OBJECTIVES[state.get("Objective", "distill")]
    config = from_dict(
        objective.model, as_before(objective.model, state["Upstream_Config"]), f"{path}: Upstream_Config"
    )
    spec = from_dict(CompactSpec, state["Spec"], f"{path}: Spec") if "Spec" in state else CompactSpec.dense(shape)
    encoder = encoder_for(shape, spec, state["Student"], str(path))
    try:
        encoder.load_state_dict(state["Student"], assign=True)  # without a second copy in memory
        pruner = objective.pruner_of_checkpoint(encoder, config, state, str(path))
        pruner.gates.load_state_dict(state["Gates"])
    except RuntimeError as error:
        raise UserError(f"{path}: its weights do not fit its configuration: {error}") from error
    final = pruner.final_masks()
    figures = pruner.figures(final)
    encoder.set_masks(final.masks)
    zero_weights(encoder, final.matrices)
    provenance = {
        "method": config.method,
        "teacher": {"name": state["Teacher"]["name"], "sha256": state["Teacher"]["sha256"]},
        "teacher_note": state["Teacher"]["note"],
        "step": state["Step"],
        "total_steps": state["Config"]["runner"]["total_steps"],
        "seed": state["Seed"],
        "sparsity": {
            "target": state.get("Target_Sparsity", config.sparsity.goal),
            "expected": figures.pop("expected"),
            "rounded": final.rounded_sparsity,
            "realised": final.sparsity,
            "shift_of_dimension_gates": final.shift,
            **({"shift_of_ffn_gates_beside": final.ffn_shift} if final.ffn_shift else {}),
            "inert_share": inert_share(final.masks, spec, shape),
        }
        | figures,
        **({"first_stage": state["First_Stage"]} if "First_Stage" in state else {}),
        **({"ctc_head": HEAD_NOTE} if "Head" in state else {}),
        "recipe": {"model": state["Upstream_Config"], "runner": state["Config"]},
        "versions": state["Versions"],
        "date": datetime.date.today().isoformat(),
    }
    return encoder, final, provenance


def compact_student(path: str | Path) -> tuple[SpeechEncoder, dict]:
    """The smaller encoder of a training checkpoint, and its provenance.

    Args:
        path: a `states-*.ckpt`.

    Raises:
        UserError: its outputs differ from those of the masked student, or as in `masked_student`.
    """
    student, final, provenance = masked_student(path)
    generator = torch.Generator().manual_seed(0)
    wavs, lengths = torch.randn(2, 16_000, generator=generator) * 0.1, torch.tensor([16_000, 11_000])
    with torch.no_grad():
        expected = student(wavs, lengths).hidden_states
        small = export_compact(student, final.masks, final.spec, in_place=True)
        difference = relative_difference(small(wavs, lengths).hidden_states, expected)
    if not difference <= TOLERANCE:  # NaN too
        raise UserError(
            f"{path}: the exported encoder differs from the masked student by {difference:.1e} (relative), but "
            f"rounding explains at most {TOLERANCE:.0e}. Nothing was written; please report this."
        )
    return small, provenance


def export_checkpoint(path: str | Path, folder: str | Path, *, command: str | None = None) -> SpeechEncoder:
    """Export a training checkpoint as a smaller encoder, together with its CTC head, if it has one.

    Args:
        path: a `states-*.ckpt`.
        folder: folder to write; must not exist.
        command: the command that started the run, for the provenance; None if it is not known.

    Raises:
        UserError: as in `compact_student` (nothing is written then) and `save_encoder`.
    """
    small, provenance = compact_student(path)
    if command is not None:
        provenance["command"] = command
    save_encoder(folder, small, provenance, files=head_files(path))
    return small


def describe_export(folder: str | Path) -> str:
    """Path and hash of an export, in one line."""
    return f"{folder} (sha256 {model_hash(folder)[:12]})"
