"""From a trained student, or any of its checkpoints, to an exported encoder that is checked to be equal to it."""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.pretrain.objectives import AnyModelConfig, Objective, head_files, objective_of_checkpoint
from s3prl_pruned.pretrain.pruners.hard_concrete import HardConcretePruner
from s3prl_pruned.pretrain.pruners.pruner import Pruner
from s3prl_pruned.sparsity.config import Target
from s3prl_pruned.sparsity.latency import LatencyTable


@dataclass(frozen=True, kw_only=True)
class TrainedStudent:
    """The student of a training checkpoint: fp32, on the CPU, in evaluation mode."""

    path: Path
    state: dict[str, Any]
    """The checkpoint."""
    objective: Objective
    config: AnyModelConfig
    encoder: SpeechEncoder
    """With the weights as trained, and empty slots."""
    pruner: Pruner
    """The pruner of `encoder`."""
    chosen: str | None = None
    """Description of the target of the export, if it is not the target of the run."""

    @property
    def gated(self) -> HardConcretePruner:
        """The pruner.

        Raises:
            UserError: it is of another kind, for which the size cannot be chosen after training.
        """
        if not isinstance(self.pruner, HardConcretePruner):
            raise UserError(
                f"{self.path}: the size can be chosen after training only for hard concrete gates, but this run is of "
                f"{self.config.method}. Its export has the size that it was trained for."
            )
        return self.pruner

    def aimed_at(self, target: Target, table: LatencyTable | None = None) -> "TrainedStudent":
        """The same, for masks of another size (`HardConcretePruner.aimed_at`).

        Raises:
            UserError: as in `gated`.
        """
        own = self.gated.control.config
        chosen = None if target == own.target else f"{target.aim}; trained for {own.aim}"
        return replace(self, pruner=self.gated.aimed_at(target, table), chosen=chosen)

    def take_average(self) -> None:
        """Load the weights to export into the encoder: their average, if the run kept one."""
        if "Average" in self.state:
            self.encoder.load_state_dict(self.state["Average"]["Student"], assign=True)

    def provenance(self, final: FinalMasks, figures: dict[str, Any]) -> dict[str, Any]:
        """The provenance of an export.

        Args:
            final: its masks.
            figures: `Pruner.figures` of these masks.
        """
        state, config = self.state, self.config
        own = state.get("Target_Sparsity", config.sparsity.goal)
        more = {} if self.chosen is None else {"chosen_after_training": self.chosen}
        if "Average" in state:
            more["weights"] = f"their moving average, decay {state['Config']['runner']['ema_decay']:g}"
        return {
            "method": config.method,
            "teacher": {"name": state["Teacher"]["name"], "sha256": state["Teacher"]["sha256"]},
            "teacher_note": state["Teacher"]["note"],
            "step": state["Step"],
            "total_steps": state["Config"]["runner"]["total_steps"],
            "seed": state["Seed"],
            "sparsity": {
                "target": self.pruner.target_sparsity if self.chosen else own,
                "expected": figures.pop("expected"),
                "rounded": final.rounded_sparsity,
                "realised": final.sparsity,
                "shift_of_dimension_gates": final.shift,
                **({"shift_of_ffn_gates_beside": final.ffn_shift} if final.ffn_shift else {}),
                "inert_share": inert_share(final.masks, self.encoder.spec, self.encoder.config),
            }
            | figures,
            **more,
            **({"first_stage": state["First_Stage"]} if "First_Stage" in state else {}),
            **(self.objective.head.card if self.objective.head is not None else {}),
            "recipe": {"model": state["Upstream_Config"], "runner": state["Config"]},
            "versions": state["Versions"],
            "date": datetime.date.today().isoformat(),
        }


def trained_student(path: str | Path) -> TrainedStudent:
    """Read the student of a training checkpoint.

    Args:
        path: a `states-*.ckpt` of `run_pretrain.py`.

    Raises:
        UserError: the file is damaged, or is not such a checkpoint.
    """
    with damage_named(path):
        return _read(Path(path), checkpoint.load_checkpoint(path, mapped=True))  # the optimiser's state stays on disk


@contextmanager
def damage_named(path: str | Path) -> Iterator[None]:
    """Give a checkpoint whose parts do not fit each other one clear error, while something is made of it.

    Args:
        path: of the checkpoint.

    Raises:
        UserError: for what such parts raise.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: its parts do not fit each other: {error!r}. Copy it again.") from error


def _read(path: Path, state: dict[str, Any]) -> TrainedStudent:
    needed = ("Student", "Gates", "Encoder_Config", "Upstream_Config", "Teacher", "Step", "Config", "Seed", "Versions")
    missing = [key for key in needed if key not in state]
    if missing:
        raise UserError(f"{path}: is not a training checkpoint of run_pretrain.py; it lacks {missing}.")
    shape = from_dict(EncoderConfig, state["Encoder_Config"], f"{path}: Encoder_Config")
    objective = objective_of_checkpoint(state)
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
    return TrainedStudent(path=path, state=state, objective=objective, config=config, encoder=encoder, pruner=pruner)


def masked_student(
    path: str | Path, target: Target | None = None, table: LatencyTable | None = None
) -> tuple[SpeechEncoder, FinalMasks, dict[str, Any]]:
    """Rebuild the student of a training checkpoint with its deterministic masks in its slots.

    Args:
        path: a `states-*.ckpt` of `run_pretrain.py`.
        target: another size than the run's own (`TrainedStudent.aimed_at`).
        table: of a target of time, where the run has none.

    Returns:
        The encoder (fp32, CPU, eval mode, masks applied), the masks, and the export's provenance.

    Raises:
        UserError: the file is damaged, or no such checkpoint; or as `TrainedStudent.aimed_at`.
    """
    trained = trained_student(path)
    with damage_named(path):
        trained = trained if target is None else trained.aimed_at(target, table)
        final = trained.pruner.final_masks()  # of the weights that the masks were trained with
        figures = trained.pruner.figures(final)
        trained.take_average()
        trained.encoder.set_masks(final.masks)
        zero_weights(trained.encoder, final.matrices)
        return trained.encoder, final, trained.provenance(final, figures)


def compact_student(
    path: str | Path, target: Target | None = None, table: LatencyTable | None = None
) -> tuple[SpeechEncoder, dict]:
    """The smaller encoder of a training checkpoint, and its provenance.

    Args:
        path: a `states-*.ckpt`.
        target: as `masked_student`.
        table: as `masked_student`.

    Raises:
        UserError: its outputs differ from those of the masked student, or as in `masked_student`.
    """
    student, final, provenance = masked_student(path, target, table)
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
    """Export a training checkpoint as a smaller encoder, together with the head of its task, if it has one.

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
