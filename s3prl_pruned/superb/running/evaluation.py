"""One evaluation by s3prl's runner: run, checked, and saved where a task has several of them."""

from __future__ import annotations

import time

from s3prl_pruned.config import UserError, from_dict, to_dict
from s3prl_pruned.formats.tensor_files import file_sha256
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.results.result import Checkpoint, Part, Seconds, read_json, write_json
from s3prl_pruned.superb.running import s3prl_runner
from s3prl_pruned.superb.tasks.checkpoints import load_checkpoint
from s3prl_pruned.superb.tasks.driver import Evaluation

PART_FILE = "evaluation-{split}.json"
"""One of several evaluations, in its own folder: an interrupted task resumes after those that are finished."""

TOLERANCE = 1e-4
"""Percent. s3prl averages in float32; one utterance of the largest test set changes a rate by 1e-2."""


def evaluate_part(evaluation: Evaluation, *, afresh: bool = False) -> Part:
    """Evaluate a checkpoint, or read its earlier evaluation.

    Args:
        evaluation: one of the driver's evaluations.
        afresh: evaluate even if there is an earlier evaluation.

    Raises:
        UserError: if utterances were left out, or files contradict each other.
        RuntimeError: if the value that s3prl printed differs from the one in its files.
    """
    run = evaluation.run
    split = run.args.evaluate_split
    checkpoint = _checkpoint_of(evaluation)
    kept = run.folder / PART_FILE.format(split=split)
    if evaluation.name and kept.is_file() and not afresh:
        part = from_dict(Part, read_json(kept), str(kept))
        if (part.name, part.checkpoint) == (evaluation.name, checkpoint):
            return part
    began = time.monotonic()
    text = s3prl_runner.evaluate(run, evaluation.checkpoint)
    found = run.driver.read_metrics(evaluation, text)
    expected = run.driver.expected_utterances(evaluation)
    if found.num_utterances != expected:
        raise UserError(
            f"{split}: all {expected} utterances must be scored, but s3prl scored {found.num_utterances}. Remove "
            "config.runner.evaluate_ratio, or set config.downstream_expert.datarc.eval_batch_size=1."
        )
    _compare(found.metrics, found.printed, split)
    part = Part(
        name=evaluation.name,
        split=split,
        num_utterances=found.num_utterances,
        metrics=found.metrics,
        printed_by_s3prl=found.printed,
        rule=found.rule,
        checkpoint=checkpoint,
        seconds=Seconds(evaluate=time.monotonic() - began),
    )
    if evaluation.name:
        write_json(kept, to_dict(part))
    return part


def _checkpoint_of(evaluation: Evaluation) -> Checkpoint | None:
    """The result's entry on the evaluated checkpoint; its hash only where it is one of several."""
    path = evaluation.checkpoint
    if path is None:
        return None
    states = load_checkpoint(path)
    return Checkpoint(
        file=path.name,
        step=states["Step"],
        rule=evaluation.rule,
        dev=evaluation.run.driver.dev_value(path, states),
        sha256=file_sha256(path) if evaluation.name else None,
        by_hand=evaluation.by_hand,
    )


def _compare(metrics: list[Value], printed: list[Value], split: str) -> None:
    """The value that s3prl printed must be the value in its files."""
    ours = {value.name: value.percent for value in metrics}
    for value in printed:
        if value.name in ours and not abs(value.percent - ours[value.name]) <= TOLERANCE:
            raise RuntimeError(
                f"{split}: s3prl printed {value.name} {value.percent} %, its files give {ours[value.name]} %."
            )
