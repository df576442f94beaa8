"""The zip file for SUPERB's leaderboard: `predict/<task>_public/` with s3prl's predictions of the test sets.

Source of the layout: s3prl's `submit/submit.py` (2a68945). The leaderboard also asks for the number of parameters, and
multiply-accumulates by its own rule (`sparsity.leaderboard`).
"""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.models.families import named
from s3prl_pruned.sparsity.leaderboard import leaderboard_macs
from s3prl_pruned.superb.catalogue import TASKS
from s3prl_pruned.superb.results.collect import read_run
from s3prl_pruned.superb.results.result import RESULT_FILE, Result, Upstream
from s3prl_pruned.upstream.load import load_model
from s3prl_pruned.upstream.register import NAMES

FILES = {
    "pr": ("test-hyp.ark", "predict.ark"),
    "asr": ("test-clean-noLM-hyp.ark", "predict.ark"),
    "ks": ("test_predict.txt", "predict.txt"),
    "sid": ("test_predict.txt", "predict.txt"),
    "ic": ("test_predict.csv", "predict.csv"),
    "sf": ("test-hyp.ark", "predict.ark"),
    "sv": ("test_predict.txt", "predict.txt"),
    "qbe": ("benchmark.stdlist.xml", "benchmark.stdlist.xml"),
}
"""Names of a task's predictions, s3prl's and the leaderboard's. ER has one file for each fold, SD a folder."""

FOLDS = range(1, 6)


@dataclass(kw_only=True)
class Submission:
    """The content of a submission."""

    path: Path
    tasks: list[str]
    missing: list[str]
    """Tasks without a result; the leaderboard takes a submission without them."""
    num_parameters: int | None
    macs: int | None
    """MACs by the leaderboard's rule; None for a model that we cannot count."""

    def text(self) -> str:
        """The submission as text for the terminal."""
        parts = [f"{self.path}: predictions of {' '.join(self.tasks)}"]
        parts += [f"not in it, since there is no result: {' '.join(self.missing)}"] if self.missing else []
        parts += [f"parameters {self.num_parameters}"] if self.num_parameters else []
        counted = f"{self.macs} ({self.macs / 1e9:.0f} G)" if self.macs else "to be counted by the leaderboard's tool"
        return "\n".join([*parts, f"MACs {counted}"])


def write_submission(row: Path, path: Path) -> Submission:
    """Put the predictions of a row's finished tasks into a zip.

    Args:
        row: the row's folder, `results/<row>`.
        path: the zip; must not exist.

    Raises:
        UserError: if the zip exists, no task is finished, a task is not official or of another model than the others,
            or its predictions are missing.
    """
    if path.exists():
        raise UserError(f"{path}: exists. Give another name, or remove it.")
    read = {name: read_run([row / name], TASKS[name]) for name in TASKS if (row / name / RESULT_FILE).is_file()}
    found = {name: result for name, result in read.items() if result}
    if not found:
        raise UserError(f"{row}: holds no finished task. Run the suite first.")
    for name, result in found.items():
        if result.protocol != "official":
            note = result.protocol_note or f"{result.protocol} protocol"
            raise UserError(f"{row / name}: must be an official result, but is not ({note}). Move it out of the row.")
    models = {(result.upstream.name, result.upstream.sha256) for result in found.values()}
    if len(models) > 1:
        raise UserError(f"{row}: its results must be of one model, but are of {sorted(map(str, models))}.")
    upstream = next(iter(found.values())).upstream
    counted = _macs(upstream)
    files = {target: source for name, result in found.items() for target, source in _files(row / name, result).items()}
    gone = [str(source) for source in files.values() if not source.is_file()]
    if gone:
        raise UserError(f"{row}: predictions are missing: {', '.join(gone[:3])}. Evaluate again: -m evaluate --force.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
            for target, source in sorted(files.items()):
                file.write(source, f"predict/{target}")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error}).") from error
    return Submission(
        path=path,
        tasks=list(found),
        missing=[name for name in TASKS if name not in found],
        num_parameters=upstream.num_parameters,
        macs=counted,
    )


def _files(folder: Path, result: Result) -> dict[str, Path]:
    """The files of a task's predictions by their names below `predict/`."""
    name = result.task
    if name == "er":
        return {
            f"er_fold{fold}_public/predict.txt": folder / f"fold{fold}" / f"test_fold{fold}_predict.txt"
            for fold in FOLDS
        }
    if name == "sd":
        predictions = sorted((folder / "scoring" / "predictions").glob("*.h5"))
        if len(predictions) < result.num_utterances:
            raise UserError(
                f"{folder}: must hold predictions of {result.num_utterances} recordings below scoring/predictions, but "
                f"holds {len(predictions)}. Evaluate again: -m evaluate --force."
            )
        return {f"sd_public/{path.name}": path for path in predictions}
    source, target = FILES[name]
    return {f"{name}_public/{target}": _evaluated(folder, result) / source}


def _evaluated(folder: Path, result: Result) -> Path:
    """The folder of the reported evaluation: a subfolder of the task's folder if there are several evaluations."""
    if result.task == "sv" and result.parts and result.checkpoint:
        return folder / Path(result.checkpoint.file).stem
    if result.task == "qbe" and result.parts:
        part = result.parts[-1]  # the layer that was best on dev
        return folder / f"{part.name}-{part.split}"
    return folder


def _macs(upstream: Upstream) -> int | None:
    """MACs of the model; None for a model of another kind, or if its path now holds another model."""
    try:
        if not upstream.path or not Path(upstream.path).exists():
            return leaderboard_macs(named(upstream.name))
        model = load_model(upstream.path)
    except UserError:
        return None
    if upstream.name in NAMES and upstream.sha256 not in (None, model.sha256):  # s3prl's own have no hash of a file
        return None
    return leaderboard_macs(model.encoder.config, model.encoder.spec)
