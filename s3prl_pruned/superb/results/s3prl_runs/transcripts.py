"""ASR, PR and SF of a run directory of s3prl: computed from the texts that s3prl saved, else as it printed them."""

from __future__ import annotations

from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.catalogue import Task, Unit, Value
from s3prl_pruned.superb.metrics import edits
from s3prl_pruned.superb.results.arks import ark_paths, read_hypotheses
from s3prl_pruned.superb.results.s3prl_runs.files import printed_values
from s3prl_pruned.superb.results.s3prl_runs.found import TOLERANCE, FoundMetrics, Unfinished


def transcript_metrics(folder: Path, task: Task) -> FoundMetrics:
    """The metrics computed from the texts; the metrics that s3prl printed must be the same numbers."""
    names = [metric.name for metric in task.metrics]
    unit: Unit = task.metrics[0].printed
    lines = {name: f"{task.test_split} {name}: " for name in names}
    printed = {
        name: Value(name=name, value=values[-1], unit=unit)
        for name, line in lines.items()
        if (values := printed_values(folder, line))
    }
    stem = f"{task.test_split}-noLM" if task.name == "asr" else task.test_split
    hypotheses_file, references_file = ark_paths(folder, stem)
    if not (hypotheses_file.is_file() or references_file.is_file()):
        if len(printed) < len(names):
            line = lines[names[0]]
            raise Unfinished(f"neither {hypotheses_file.name} nor a captured log with `{line}`; evaluate it on test.")
        return FoundMetrics(metrics=list(printed.values()), num_utterances=0, note="as s3prl printed it")
    hypotheses, references = read_hypotheses(folder, stem)
    metrics = _computed(task, hypotheses, references)
    for value in metrics:
        shown = printed.get(value.name)
        if shown is not None and not abs(shown.percent - value.percent) <= TOLERANCE:
            raise UserError(
                f"{folder}: s3prl printed {value.name} {shown.value}, but {hypotheses_file.name} gives {value.value}. "
                "They are from two evaluations; keep one of them."
            )
    return FoundMetrics(metrics=metrics, num_utterances=len(references), note=f"computed from {hypotheses_file.name}")


def _computed(task: Task, hypotheses: dict[str, str], references: dict[str, str]) -> list[Value]:
    if task.name == "asr":
        return edits.word_and_character_error_rates(hypotheses, references)
    computed = {
        "pr": {"per": edits.phone_error_rate},
        "sf": {"slot_type_f1": edits.slot_type_f1, "slot_value_cer": edits.slot_value_cer},
    }[task.name]
    return [
        Value(name=name, value=compute(hypotheses, references), unit="fraction") for name, compute in computed.items()
    ]
