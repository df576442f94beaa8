"""Whether an evaluation gives the task's result, or is an early one (a look), before the end of the training.

An early evaluation has a file name of its own, ``look-<split>-step<N>.json``, and is never counted: neither by the
training that continues, nor in the score table.
"""

from __future__ import annotations

from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.results.result import INTERRUPTED, RESULT_FILE, RUN_FILE, Result, read_result
from s3prl_pruned.superb.results.s3prl_runs.files import saved_steps
from s3prl_pruned.superb.results.trained import TRAINED_FILE
from s3prl_pruned.superb.tasks.checkpoints import load_checkpoint, newest_checkpoint
from s3prl_pruned.superb.tasks.driver import DownstreamRun, Evaluation


def unfinished_step(run: DownstreamRun) -> int | None:
    """How far the least advanced of a run's trainings has come.

    Returns:
        Its newest saved step; None where all are finished (as the result or the checkpoints say), nothing is trained,
        or no checkpoint is left.
    """
    if not run.driver.trains:
        return None
    total = run.config["runner"]["total_steps"]
    newest = [_newest_step(training.run.folder, run, total) for training in run.driver.trainings(run)]
    if max(newest) == 0 or min(newest) >= total or _result_is_of_the_end(run.folder / RESULT_FILE, total):
        return None
    return min(newest)


def _newest_step(folder: Path, run: DownstreamRun, total: int) -> int:
    if (folder / INTERRUPTED).is_file():
        path = newest_checkpoint(folder)
        return load_checkpoint(path)["Step"] if path else 0
    saved, best = saved_steps(folder), folder / run.driver.best
    if saved or not best.is_file():
        return max(saved, default=0)
    # The user kept only the best checkpoint, to save room; or the first numbered one is not written yet.
    ended = any((run.folder / name).is_file() for name in (RESULT_FILE, TRAINED_FILE))
    return total if ended or not (run.folder / RUN_FILE).is_file() else load_checkpoint(best)["Step"]


def _result_is_of_the_end(path: Path, total: int) -> bool:
    """Whether a result is of a finished training, where the user has removed most checkpoints to save room."""
    try:
        return read_result(path).is_trained_to(total)
    except UserError:  # no result, or a damaged one: it proves nothing
        return False


def result_name(run: DownstreamRun, named: Evaluation | None = None) -> str:
    """The name of the file that an evaluation is written to.

    Args:
        run: the run, whose split and newest step decide.
        named: the evaluation of a checkpoint that the user named, if any.
    """
    split, step = run.args.evaluate_split, unfinished_step(run)
    if step is not None:
        place = f"step{step}" if named is None or named.checkpoint is None else named.checkpoint.stem
        return f"look-{split}-{place}.json"
    return RESULT_FILE if split == run.task.test_split else f"result-{split}.json"


def look_of(run: DownstreamRun) -> str | None:
    """How far the training has come, for the file of an early evaluation; None where it is finished."""
    step = unfinished_step(run)
    return None if step is None else f"the training stood at step {step} of {run.config['runner']['total_steps']}"


def named_checkpoint(run: DownstreamRun, *, past_exp: str | None, init_ckpt: str | None) -> Evaluation | None:
    """The evaluation of the checkpoint that ``-e`` or ``-i`` names.

    Args:
        run: the run of the command line.
        past_exp: ``-e``.
        init_ckpt: ``-i``.

    Raises:
        UserError: if it is one checkpoint for a task with several trainings.
    """
    for letter, name in (("-e", past_exp), ("-i", init_ckpt)):
        if name is None:
            continue
        trainings = run.driver.trainings(run)
        if len(trainings) > 1:
            raise UserError(
                f"{letter} {name}: is one checkpoint, but {run.task.name} has {len(trainings)} trainings "
                f"({', '.join(training.name for training in trainings)})."
            )
        path = Path(name)
        if path.is_dir():
            path = newest_checkpoint(path) or path
        return Evaluation(name="", run=trainings[0].run, checkpoint=path, rule=f"named by {letter}", by_hand=True)
    return None


def refuse_another_checkpoint(target: Path, wanted: list[Evaluation]) -> None:
    """Stop if the earlier evaluation is of other checkpoints than those to be evaluated now.

    Args:
        target: the file of the earlier evaluation.
        wanted: the evaluations to be made now.

    Raises:
        UserError: if it used another checkpoint or another step, or more or fewer checkpoints.
    """
    if any(evaluation.checkpoint is None for evaluation in wanted):
        return
    if sorted(map(_identity, wanted)) != _evaluated(read_result(target)):
        raise UserError(f"{target}: is of another checkpoint. Give --force to move it aside.")


def _identity(evaluation: Evaluation) -> tuple[str, str, int]:
    assert evaluation.checkpoint is not None, "asked for by refuse_another_checkpoint"
    path = evaluation.checkpoint
    return path.name, evaluation.rule, load_checkpoint(path)["Step"]


def _evaluated(result: Result) -> list[tuple[str, str, int]]:
    found = [part.checkpoint for part in result.parts or []] or [result.checkpoint]
    return sorted((checkpoint.file, checkpoint.rule, checkpoint.step) for checkpoint in found if checkpoint)
