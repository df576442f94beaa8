"""Find the model of an upstream: an export, a training checkpoint, a dense checkpoint, or the newest export."""

from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.formats.format import CONFIG, LoadedModel
from s3prl_pruned.formats.registry import read
from s3prl_pruned.models.accelerate import accelerate
from s3prl_pruned.models.state_rule import StateRule
from s3prl_pruned.pretrain.distill.teachers import load_teacher
from s3prl_pruned.pretrain.training_checkpoint import MASKED

RESULTS = Path("result/pretrain")


def newest_export(upstream: str) -> Path:
    """The latest finished export under `result/pretrain/<upstream>_distill/`, except those that `--force` moved aside.

    Raises:
        UserError: there is no finished export.
    """
    folder = RESULTS / f"{upstream}_distill"
    exports = [path for path in folder.glob(f"*/export/{CONFIG}") if ".old-" not in path.parent.parent.name]
    if not exports:
        raise UserError(
            f"{folder}: holds no finished export. Make one (python run_pretrain.py -u {upstream}_distill), or name one "
            "with -k."
        )
    return max(exports, key=lambda path: path.stat().st_mtime).parent


def rule_named(states: str) -> StateRule | None:
    """Which states are published: `own` for the model's own rule (None), `s3prl` for the rule of s3prl's models.

    Raises:
        UserError: `states` is neither of these.
    """
    if states not in ("own", "s3prl"):
        raise UserError(
            "`states` must be own (those that the model publishes) or s3prl (those that s3prl's models give), but is "
            f"{states!r}."
        )
    return None if states == "own" else StateRule()


def load_model(path: str | Path) -> LoadedModel:
    """Load an encoder from any file or folder written by this project, or in a public format (`formats.registry`).

    Args:
        path: folder of an export (or its `model.safetensors` or `config.json`), training checkpoint (`states-*.ckpt`;
            its masks are applied, not cut), dense checkpoint, or `random` (the embedded teacher's shape).

    Returns:
        The model; its encoder has the fast forms of its blocks (`accelerate`).

    Raises:
        UserError: there is no such file, or it is damaged or of another kind.
    """
    path = Path(path)
    if str(path) == "random":
        teacher = load_teacher("random")
        loaded = LoadedModel(teacher.encoder, path, teacher.sha256, {"teacher_note": teacher.note})
    elif path.exists():
        loaded = read(path, int8=True, also=(MASKED,))
    else:
        raise UserError(f"{path}: no such model. -k takes an export's folder or a checkpoint.")
    accelerate(loaded.encoder)
    return loaded
