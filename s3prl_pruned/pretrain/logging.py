"""Output of a run while it trains: `log.jsonl`, TensorBoard with the same numbers, and a progress bar."""

import json
from pathlib import Path

from s3prl_pruned.checkpoint import write_text
from s3prl_pruned.config import UserError
from s3prl_pruned.progress import progress
from s3prl_pruned.scalars import ScalarWriter
from s3prl_pruned.sparsity.quantities import quantity_in

LOG = "log.jsonl"
JUDGED_BY = ("held_out_distill", "dev_wer", "held_out_eer", "dev_frame_der")
"""Measures of the quality of the model that a run would export, by objective; lower is better."""


class RunLog:
    """Writes the log of a run.

    Args:
        folder: folder of the run.
        step: step from which the run continues; later lines of an interrupted run are removed.
        total_steps: length of the progress bar.
    """

    def __init__(self, folder: Path, *, step: int, total_steps: int):
        self.path = folder / LOG
        lines = [line for line in read_log(folder) if line["step"] <= step] if self.path.exists() else []
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        self.writer = ScalarWriter(folder / "tensorboard", purge_step=step + 1 if step else None)
        self._judged = self._doing = ""
        self.bar = progress(total=total_steps, initial=step, unit="step", dynamic_ncols=True)

    def describe(self, doing: str) -> None:
        """Show in the bar what the run is doing when this takes longer than a step."""
        if doing != self._doing:
            self._doing = doing
            self.bar.set_description(doing or None)

    def progress(self, records: dict, *, loss: float, reading: float) -> None:
        """Advance the bar by one step. It also shows the remaining time, and the result of the last evaluation.

        Args:
            records: records of the step.
            loss: loss of the step.
            reading: seconds of audio per second that could be read; training uses less unless it waits for audio.
        """
        name = quantity_in(records, prefix="target_").name
        if judged_by := judged(records):
            self._judged = (
                f", {judged_by} {records[judged_by]:.4g} of {records['export_parameters'] / 1e6:.3g} M exported"
            )
        self.bar.set_postfix_str(
            f"loss {loss:.4g}, target {records[f'target_{name}']:.3f}, "
            f"expected {records[f'expected_{name}']:.3f}{self._judged}, {records['audio_seconds_per_second']:.3g} s "
            f"audio/s trained, {reading:.3g} readable, {records['memory_gib']:.2f} GiB"
            + (f", {records['bad_steps']} SKIPPED" if records["bad_steps"] else ""),
            refresh=False,
        )
        self.bar.update()

    def write(self, step: int, records: dict) -> None:
        """Write one line of JSON, and its scalars to TensorBoard."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **records}) + "\n")
        for name, value in records.items():
            if isinstance(value, (int, float)):
                self.writer.add_scalar(name, value, step)

    def best(self) -> int | None:
        """Step of the best checkpoint so far, as in `best_line`."""
        found = best_line(read_log(self.path.parent))
        return None if found is None else found["step"]

    def close(self) -> None:
        """Close the bar and the TensorBoard file."""
        self.bar.close()
        self.writer.close()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error}). Copy the file again.") from error


def read_log(folder: str | Path) -> list[dict]:
    """The lines of a run's `log.jsonl`, without a last line that is incomplete after `kill -9`.

    Raises:
        UserError: there is no log, or a line before the last is damaged.
    """
    path = Path(folder) / LOG
    if not path.is_file():
        raise UserError(f"{path}: no such log. Name the folder of a training run.")
    texts, lines = _text(path).splitlines(), []
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
            line["step"] + 0
            lines.append(line)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            if number < len(texts):
                raise UserError(
                    f"{path}: line {number} of {len(texts)} is damaged ({error}). Copy the file again."
                ) from error
    return lines


def judged(line: dict) -> str | None:
    """Name of the evaluation measure in a line, if any."""
    return next((name for name in JUDGED_BY if name in line), None)


def best_line(lines: list[dict]) -> dict | None:
    """The line with the best evaluation among those on target; models off target are smaller or larger."""
    found = [(line[name], line) for line in lines if line.get("on_target") and (name := judged(line))]
    return min(found, key=lambda pair: pair[0])[1] if found else None
