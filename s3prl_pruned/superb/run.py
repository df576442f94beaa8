"""Run a SUPERB task with s3prl's own runner, and keep what it forgets: ``result.json``.

    read and check everything -> settle what the folder holds -> train -> pick the checkpoint
    -> evaluate -> recompute the metrics from what was kept -> write result.json

s3prl's runner and experts do the training and the decoding; what differs between the tasks is in
their drivers (``drivers/base.py``). ``results/<upstream>/<task>/`` holds s3prl's files, ``stdout.log`` (all
that it printed), ``run.json`` (what was begun) and ``result.json``. A task of several trainings or
evaluations has a folder for each below that.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
import time
from pathlib import Path

from s3prl_pruned import distributed
from s3prl_pruned.command_line import Interrupted
from s3prl_pruned.config import UserError
from s3prl_pruned.superb import host
from s3prl_pruned.superb.checkpoints import load_checkpoint, newest_checkpoint
from s3prl_pruned.superb.drivers.base import Evaluation, Training
from s3prl_pruned.superb.evaluation import evaluate_part
from s3prl_pruned.superb.experiment import Experiment, make_experiment
from s3prl_pruned.superb.features import features_folder
from s3prl_pruned.superb.options import make_parser
from s3prl_pruned.superb.results import (
    RESULT_FILE, Part, Result, Seconds, Upstream, read_result, write_result,
)  # fmt: skip
from s3prl_pruned.superb.run_folder import (
    BegunRun, Stage, move_aside, read_begun, refuse_another_run, settle_training, write_begun,
)  # fmt: skip
from s3prl_pruned.superb.upstreams import describe_upstream

def main(argv: list[str] | None = None) -> None:
    """The command line.

    Raises:
        UserError: on anything that a user or a file can cause.
        Interrupted: by Ctrl-C; s3prl's checkpoints so far stand.
    """
    options = make_parser().parse_args(argv)
    options.command = shlex.join(["python", "run_downstream.py", *(sys.argv[1:] if argv is None else argv)])
    try:
        run(options)
    except KeyboardInterrupt:
        raise Interrupted("the same command with -a goes on from the last checkpoint.") from None


def run(options: argparse.Namespace) -> None:
    """Do what the command line says.

    Raises:
        UserError: on anything that a user or a file can cause.
    """
    host.prepare(options)
    try:
        _run(options)
    finally:
        distributed.stop()


def _run(options: argparse.Namespace) -> None:
    made = []  # first by the first process: it writes lists that the others then find
    distributed.from_main(lambda: made.append(make_experiment(options)))
    experiment = made[0] if made else make_experiment(options)
    upstream = distributed.from_main(lambda: describe_upstream(experiment.args))
    experiment.args.upstream_refresh = False  # once is enough
    if experiment.args.cache_features:
        name = upstream.sha256 or f"{upstream.name} {experiment.args.upstream_model_config}"
        experiment.features = features_folder(name, experiment.args.upstream_feature_selection)
    _announce(experiment)
    _say(f"Upstream: {_describe(upstream)}")
    if experiment.features:
        _say(f"Features: kept in {experiment.features}")
    begun = BegunRun(
        config_sha256=experiment.config_sha256,
        upstream=upstream,
        splits=experiment.splits,
        protocol=experiment.protocol,
        protocol_note=experiment.protocol_note,
        num_processes=distributed.world_size(),
        command=options.command,
        date=_now(),
    )
    if options.mode == "inference":
        _transcribe(experiment, options)
    elif options.mode == "evaluate":
        _evaluate_only(experiment, begun, options)
    else:
        _train(experiment, begun, options)


def _train(experiment: Experiment, begun: BegunRun, options: argparse.Namespace) -> None:
    folder = experiment.folder
    resume = options.auto_resume or options.past_exp is not None
    stage = distributed.from_main(lambda: _settle(folder, begun, resume=resume, force=options.force))
    if stage == "finished":
        if not distributed.is_main():
            return
        print(f"{folder}: finished before with the same settings, model and corpus; nothing to do.")
        _show(read_result(folder / RESULT_FILE), folder / RESULT_FILE)
        return
    began = time.monotonic()
    if experiment.driver.trains:
        for training in experiment.driver.trainings(experiment):
            _train_one(training, options, resumed=stage == "resume")
    seconds = time.monotonic() - began
    main = distributed.is_main()
    distributed.stop()  # the first process evaluates alone
    experiment.args.local_rank = None
    if not main:
        return
    if options.mode == "train":
        print(f"{folder}: trained in {seconds:.0f} s. `-m evaluate` with the same options evaluates it.")
        return
    _evaluate(experiment, begun, train_seconds=seconds if experiment.driver.trains else None)


def _settle(folder: Path, begun: BegunRun, *, resume: bool, force: bool) -> Stage:
    stage = settle_training(folder, begun, resume=resume, force=force)
    if stage == "start":
        write_begun(folder, begun)
    return stage


def _train_one(training: Training, options: argparse.Namespace, *, resumed: bool) -> None:
    experiment = training.experiment
    if options.past_exp is not None:
        start = Path(experiment.args.init_ckpt)
    else:
        start = distributed.from_main(lambda: newest_checkpoint(experiment.folder)) if resumed else None
    if start is not None and load_checkpoint(start)["Step"] >= experiment.config["runner"]["total_steps"]:
        _say(f"{start}: the last step was made before.")
        return
    if training.name:
        _say(f"{experiment.task.name} {training.name}: training in {experiment.folder}")
    if resumed:
        _say(f"Going on from {start or 'the beginning: no checkpoint was saved yet'}.")
    if start is None or options.past_exp is not None:
        host.save_settings(experiment)
    host.train(experiment, start)


def _evaluate_only(experiment: Experiment, begun: BegunRun, options: argparse.Namespace) -> None:
    named = _named_checkpoint(experiment, options)
    previous = read_begun(experiment.folder)
    if previous is not None:
        refuse_another_run(experiment.folder, previous, begun)
        begun.protocol, begun.protocol_note = previous.protocol, previous.protocol_note
    elif not experiment.driver.trains:
        write_begun(experiment.folder, begun)
    target = experiment.folder / _result_name(experiment)
    if target.is_file() and options.force:
        move_aside(target)
    elif target.is_file():
        _refuse_another_checkpoint(target, experiment, named)
        print(f"{target}: evaluated before; nothing to do.")
        _show(read_result(target), target)
        return
    _evaluate(experiment, begun, named=named, afresh=options.force)


def _refuse_another_checkpoint(target: Path, experiment: Experiment, named: Evaluation | None) -> None:
    result = read_result(target)
    wanted = [named] if named else experiment.driver.evaluations(experiment, [])
    if len(wanted) > 1 or wanted[0].checkpoint is None:
        return
    file, rule = wanted[0].checkpoint.name, wanted[0].rule
    if result.checkpoint is None or (result.checkpoint.file, result.checkpoint.rule) != (file, rule):
        raise UserError(f"{target}: is of another checkpoint. Give --force to move it aside.")


def _evaluate(
    experiment: Experiment,
    begun: BegunRun,
    *,
    named: Evaluation | None = None,
    afresh: bool = False,
    train_seconds: float | None = None,
) -> None:
    driver = experiment.driver
    parts: list[Part] = []
    while evaluations := ([] if parts else [named]) if named else driver.evaluations(experiment, parts):
        for evaluation in evaluations:
            parts.append(evaluate_part(evaluation, afresh=afresh))
            if evaluation.name:
                _show_part(experiment, parts[-1])
    combined = driver.combine(parts)
    result = Result(
        task=experiment.task.name,
        split=experiment.args.evaluate_split,
        num_utterances=sum(p.num_utterances for p in ([combined.chosen] if combined.chosen else parts)),
        metrics=combined.metrics,
        printed_by_s3prl=combined.chosen.printed_by_s3prl if combined.chosen else [],
        rule=combined.rule,
        parts=parts if len(parts) > 1 else None,
        protocol=begun.protocol,
        protocol_note=begun.protocol_note,
        upstream=begun.upstream,
        checkpoint=combined.chosen.checkpoint if combined.chosen else None,
        corpus=str(experiment.corpus),
        splits=experiment.splits,
        config_sha256=experiment.config_sha256,
        seed=experiment.args.seed,
        device=experiment.args.device,
        command=begun.command,
        versions=host.versions(),
        date=_now(),
        seconds=Seconds(train=train_seconds, evaluate=sum(part.seconds.evaluate for part in parts)),
    )
    path = experiment.folder / _result_name(experiment)
    write_result(path, result)
    _show(result, path)


def _transcribe(experiment: Experiment, options: argparse.Namespace) -> None:
    evaluation = _named_checkpoint(experiment, options) or experiment.driver.evaluations(experiment, [])[0]
    print(host.transcribe(experiment, evaluation.checkpoint, options.evaluate_split))


def _named_checkpoint(experiment: Experiment, options: argparse.Namespace) -> Evaluation | None:
    """The evaluation of what -e or -i names."""
    for letter, name in (("-e", options.past_exp), ("-i", options.init_ckpt)):
        if name is None:
            continue
        trainings = experiment.driver.trainings(experiment)
        if len(trainings) > 1:
            raise UserError(
                f"{letter} {name}: is one checkpoint, but {experiment.task.name} has {len(trainings)} trainings "
                f"({', '.join(training.name for training in trainings)})."
            )
        path = Path(name)
        if path.is_dir():
            path = newest_checkpoint(path) or path
        return Evaluation(name="", experiment=trainings[0].experiment, checkpoint=path, rule=f"named by {letter}")
    return None


def _result_name(experiment: Experiment) -> str:
    split = experiment.args.evaluate_split
    return RESULT_FILE if split == experiment.task.test_split else f"result-{split}.json"


def _announce(experiment: Experiment) -> None:
    if experiment.embedded:
        _say(
            f"Corpus: the embedded speech, {experiment.protocol} protocol. The paper's recipe is one option "
            "away: --corpus /data/LibriSpeech"
        )
    else:
        note = f" ({experiment.protocol_note})" if experiment.protocol_note else ""
        _say(f"Corpus: {experiment.corpus}, {experiment.protocol} protocol{note}")


def _say(text: str) -> None:
    """Print at once, in the first process only."""
    if distributed.is_main():
        print(text, flush=True)


def _describe(upstream: Upstream) -> str:
    parts = [upstream.name]
    if upstream.num_parameters:
        parts.append(f"{upstream.num_parameters:,} parameters")
    parts.append(f"SHA-256 {upstream.sha256}" if upstream.sha256 else "no weights")
    parts += [part for part in (upstream.path, upstream.teacher_note) if part]
    return ", ".join(parts)


def _show(result: Result, path: Path) -> None:
    note = f", {result.upstream.teacher_note}" if result.upstream.teacher_note else ""
    print(f"{result.task} {result.split}: {_rates(result.metrics)} on {result.num_utterances} utterances")
    if result.rule:
        print(f"  {result.rule}{':' if result.parts else ''}")
        for part in result.parts or []:
            print(f"    {part.name} {part.split}: {_rates(part.metrics)} on {part.num_utterances} utterances")
    print(f"  upstream {result.upstream.name}{note}; {result.protocol} protocol")
    if result.checkpoint:
        print(f"  checkpoint {result.checkpoint.file}, step {result.checkpoint.step}: {result.checkpoint.rule}")
    print(f"  {path}")


def _show_part(experiment: Experiment, part: Part) -> None:
    print(f"{experiment.task.name} {part.name} {part.split}: {_rates(part.metrics)}", flush=True)


def _rates(metrics: list[Value]) -> str:
    return ", ".join(f"{value.name.upper()} {value.percent:.2f} %" for value in metrics)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
