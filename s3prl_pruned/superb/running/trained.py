"""Writes ``trained.json``, the outcome of `-m train`."""

from __future__ import annotations

from s3prl_pruned.config import to_dict
from s3prl_pruned.superb.results.result import Upstream, write_json
from s3prl_pruned.superb.results.trained import TRAINED_FILE, TrainedRun
from s3prl_pruned.superb.tasks.checkpoints import load_checkpoint
from s3prl_pruned.superb.tasks.driver import DownstreamRun


def write_trained(run: DownstreamRun, *, protocol: str, upstream: Upstream) -> None:
    """Write ``trained.json`` beside the checkpoints; the values come from the best ones.

    Args:
        run: a run with complete trainings.
        protocol: as in ``result.json``.
        upstream: as in ``result.json``.
    """
    checkpoints = [run.driver.best_evaluation(training).checkpoint for training in run.driver.trainings(run)]
    trained = TrainedRun(
        task=run.task.name,
        seed=run.args.seed,
        protocol=protocol,
        upstream=upstream,
        steps=run.config["runner"]["total_steps"],
        dev=[run.driver.dev_value(path, load_checkpoint(path)) for path in checkpoints if path],
    )
    write_json(run.folder / TRAINED_FILE, to_dict(trained))
