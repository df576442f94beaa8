"""`tools/export.py --targets`: several structures of one checkpoint as a table, a figure and models."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from s3prl_pruned.distributed import check_device
from s3prl_pruned.export.masks import FinalMasks
from s3prl_pruned.formats.tensor_files import written_whole
from s3prl_pruned.models.accelerate import accelerate
from s3prl_pruned.pretrain.conversion import convert
from s3prl_pruned.pretrain.expert import SECONDS_OF_MACS
from s3prl_pruned.pretrain.finish import trained_student
from s3prl_pruned.pretrain.structures import Choices, Structure, expert_of
from s3prl_pruned.pretrain.training_checkpoint import cut_at
from s3prl_pruned.report import structures as report
from s3prl_pruned.timing.clock import compare
from s3prl_pruned.timing.runs import TimingSetting, check_setting


def export_at(
    source: Path, path: Path, target: str, fmt: str, *, int8: bool = False, latency_table: str | None = None
) -> str:
    """Export a checkpoint at another target than the run's own, like `pretrain.conversion.convert`.

    Args:
        source: a `states-*.ckpt`.
        path: the new file or folder; must not exist.
        target: such as `0.65`, `macs=0.5` or `speedup=2`.
        fmt: name of the format.
        int8: as in `convert`.
        latency_table: file, for a speed-up if the run has no table.

    Raises:
        UserError: as in `Choices` and `convert`.
    """
    choices = Choices.of(trained_student(source), target, latency_table)
    choices.only()
    choices.masks()  # refuses what is out of reach
    return convert(source, path, fmt, int8=int8, cut=cut_at(choices.only(), choices.table))


def run(
    source: Path,
    folder: Path,
    targets: str,
    *,
    latency_table: str | None = None,
    losses: bool = True,
    teacher: str | None = None,
    corpus: str | None = None,
    device: str = "cpu",
    repeats: int = 0,
    threads: int = 1,
    export: bool = False,
    fmt: str = "folder",
    int8: bool = False,
) -> dict[str, Any]:
    """Evaluate each target and write the report.

    Args:
        source: a `states-*.ckpt`.
        folder: folder to write (completely or not at all); must not exist.
        targets: such as `0.5,0.65,0.8`.
        latency_table: file, for times and speed-ups if the run has no table.
        losses: whether to compute the held-out loss.
        teacher: current path of the teacher; None for that of the run.
        corpus: current path of the corpus; None for that of the run.
        device: device for losses and times.
        repeats: timed runs per model; 0 measures no times.
        threads: CPU threads while timing.
        export: whether to write each structure as a model, too.
        fmt: format of the models.
        int8: as in `convert`.

    Returns:
        The document of `report.structures`.

    Raises:
        UserError: the folder exists, a target is wrong, or teacher or speech are missing.
    """
    with written_whole(folder) as temporary:
        check_device(device)
        setting = TimingSetting(baseline="dense", device=device, threads=threads, repeats=repeats or None)
        check_setting(setting)
        trained = trained_student(source)
        choices = Choices.of(trained, targets, latency_table)
        finals = choices.masks()
        expert = expert_of(trained, teacher=teacher, corpus=corpus, device=device) if losses else None
        found = choices.structures(finals, expert)
        del expert
        if repeats:
            _time(choices, finals, found, setting)
        data = _document(source, choices, found)
        temporary.mkdir()
        if export:
            for name, target in zip(choices.names, choices.targets, strict=True):
                path = temporary / (f"{name}.onnx" if fmt == "onnx" else name)
                convert(source, path, fmt, int8=int8, cut=cut_at(target, choices.table))
        report.write(data, temporary)
    return data


def _time(choices: Choices, finals: Sequence[FinalMasks], found: Sequence[Structure], setting: TimingSetting) -> None:
    """Time all structures and the dense student side by side."""
    encoders = {name: accelerate(encoder).to(setting.device) for name, encoder in choices.encoders(finals).items()}
    for one, result in zip(found, compare(encoders, setting, seconds=SECONDS_OF_MACS), strict=True):
        one.seconds, one.speed, one.noisy = result.seconds, result.ratio, result.noisy


def _document(source: Path, choices: Choices, found: Sequence[Structure]) -> dict[str, Any]:
    state, table = choices.trained.state, choices.table
    step, total = state["Step"], state["Config"]["runner"]["total_steps"]
    data = {
        "checkpoint": str(source),
        "step": step,
        "total_steps": total,
        "teacher_note": state["Teacher"]["note"],
        "average": "Average" in state,
        "quantity": choices.quantity.name,
        "reach": list(choices.reach),
        "seconds_of_audio": SECONDS_OF_MACS,
        "settled": choices.trained.gated.control.config.is_settling(step, total),
        "table_of": None if table is None else f"{table.measured.machine}, {table.utterance_seconds:g} s of audio",
        "structures": [asdict(one) for one in found],
    }
    return {**data, "notes": report.notes(data)}
