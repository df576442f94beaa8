"""``run_downstream.py``: run a SUPERB task with s3prl's own runner, and save its result in ``result.json``.

    options.py, make_run.py   read and check all that the command line names
    run_folder.py             what to do by what the run's folder holds: start, resume, or nothing
    look.py                   whether an evaluation gives the result, or is an early one before the end of the training
    s3prl_runner.py           s3prl trains
    evaluation.py             s3prl evaluates; the metrics are recomputed from its files
    run.py                    calls these in this order and writes result.json

s3prl's runner and experts do the training and the decoding; the differences between the tasks are in their drivers
(``tasks/driver.py``). ``results/<upstream>/<task>/`` holds s3prl's files, ``stdout.log`` (all that s3prl printed),
``run.json`` (what was started) and ``result.json``. A task with several trainings or evaluations has a subfolder for
each of them.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import sys
import time
from pathlib import Path

from s3prl_pruned import compat, distributed
from s3prl_pruned.command_line import Interrupted, Stopped
from s3prl_pruned.config import UserError
from s3prl_pruned.folder_lock import locked, locked_in_turn
from s3prl_pruned.own_commands import typed
from s3prl_pruned.superb.results.result import RESULT_FILE, Part, Result, Seconds, Upstream, read_result, write_result
from s3prl_pruned.superb.results.trained import Choice, read_choice
from s3prl_pruned.superb.running import s3prl_runner
from s3prl_pruned.superb.running.evaluation import evaluate_part
from s3prl_pruned.superb.running.features import features_folder
from s3prl_pruned.superb.running.features_room import drop_features, in_words
from s3prl_pruned.superb.running.look import (
    look_of,
    named_checkpoint,
    refuse_another_checkpoint,
    result_name,
    unfinished_step,
)
from s3prl_pruned.superb.running.make_run import make_run
from s3prl_pruned.superb.running.messages import announce, say, show_part, show_result
from s3prl_pruned.superb.running.options import make_parser
from s3prl_pruned.superb.running.run_folder import (
    BegunRun,
    move_aside,
    read_begun,
    refuse_another_run,
    settle_training,
    write_begun,
)
from s3prl_pruned.superb.running.trained import write_trained
from s3prl_pruned.superb.tasks.checkpoints import load_checkpoint, newest_checkpoint
from s3prl_pruned.superb.tasks.driver import DownstreamRun, Evaluation, Training
from s3prl_pruned.superb.tasks.upstreams import describe_upstream

OWN_FEATURES = "features"
"""Subfolder of the run's folder, removed when the result is written: features that a task extracts once and reads in
several evaluations."""


def main(argv: list[str] | None = None) -> None:
    """The command line.

    Raises:
        UserError: on anything that a user or a file can cause.
        Interrupted: by Ctrl-C or another stop signal; s3prl's checkpoints so far are kept.
    """
    options = make_parser().parse_args(argv)
    options.command = typed("downstream", *(sys.argv[1:] if argv is None else argv))
    try:
        (_drop_features if options.drop_features else run_task)(options)
    except KeyboardInterrupt as stop:
        code = stop.exit_code if isinstance(stop, Stopped) else 130
        raise Interrupted("the same command with -a resumes from the last checkpoint.", exit_code=code) from None


def run_task(options: argparse.Namespace) -> None:
    """Do what the command line says.

    Raises:
        UserError: on anything that a user or a file can cause.
    """
    s3prl_runner.prepare(options)
    try:
        _run_task(options)
    finally:
        distributed.stop()


def _run_task(options: argparse.Namespace) -> None:
    run = _make_run(options)
    upstream = distributed.from_main(lambda: describe_upstream(run.args))
    if options.upstream_sha256 not in (None, upstream.sha256):
        raise UserError(
            f"{upstream.path or upstream.name}: must be the model {options.upstream_sha256[:12]} (--upstream-sha256), "
            f"but is {(upstream.sha256 or 'without weights')[:12]}. It has changed since this was planned; plan again."
        )
    run.args.upstream_refresh = False  # once is enough
    if run.args.cache_features:
        run.features = _features_of(upstream, run.args)
    elif run.driver.extracts_once(run):
        run.features = run.folder / OWN_FEATURES
    announce(run, upstream)
    begun = BegunRun(
        config_sha256=run.config_sha256,
        former_sha256=run.former_sha256,
        upstream=upstream,
        splits=run.splits,
        protocol=run.protocol,
        protocol_note=run.protocol_note,
        num_processes=distributed.world_size(),
        command=options.command,
        date=_now(),
    )
    if options.mode == "inference":
        _transcribe(run, options)
    elif options.mode == "evaluate":
        _evaluate_only(run, begun, options)
    else:
        with contextlib.ExitStack() as held:
            _train(run, begun, options, held)


def _features_of(upstream: Upstream, args: argparse.Namespace) -> Path:
    config = next((option for option in upstream.settings or [] if option.startswith("-g ")), None)
    model = upstream.sha256 or f"{upstream.name} {config}"
    return features_folder(model, args.upstream_feature_selection, half=args.cache_half, layers=args.layers)


def _drop_features(options: argparse.Namespace) -> None:
    """``--drop-features``: remove the features of the named upstream, with its options, or of all upstreams."""
    compat.apply()
    folder = _features_of(describe_upstream(options), options) if options.upstream else None
    print(f"{in_words(drop_features(folder))} of cached features removed{f' ({folder})' if folder else ''}")


def _make_run(options: argparse.Namespace) -> DownstreamRun:
    """Make the run in the first process first: it writes lists that the others then read."""
    made: list[DownstreamRun] = []
    distributed.from_main(lambda: made.append(make_run(options)))
    return made[0] if made else make_run(options)


def _train(run: DownstreamRun, begun: BegunRun, options: argparse.Namespace, held: contextlib.ExitStack) -> None:
    folder = run.folder
    resume = options.auto_resume or options.past_exp is not None
    stage = distributed.from_main(
        lambda: settle_training(
            folder, begun, resume=resume, force=options.force, unfinished=lambda: unfinished_step(run), held=held
        )
    )
    if stage == "finished":
        if not distributed.is_main():
            return
        print(f"{folder}: finished before with the same settings, model and corpus; nothing to do.")
        show_result(read_result(folder / RESULT_FILE), folder / RESULT_FILE)
        return
    began = time.monotonic()
    if run.driver.trains:
        for training in run.driver.trainings(run):
            _train_one(training, options, resumed=stage == "resume")
    seconds = time.monotonic() - began
    main = distributed.is_main()
    distributed.stop()  # the first process evaluates alone
    run.args.local_rank = None
    if not main:
        return
    if options.mode == "train":
        write_trained(run, protocol=begun.protocol, upstream=begun.upstream)
        print(f"{folder}: trained in {seconds:.0f} s. `-m evaluate` with the same options evaluates it.")
        return
    target = folder / result_name(run)
    with locked_in_turn(folder, _evaluation_lock(run)):  # waits for an early evaluation that is still running
        choice = read_choice(options.tried_rates) if options.tried_rates else None
        seconds_of_training = seconds if run.driver.trains else None
        _evaluate(run, begun, target, look=look_of(run), train_seconds=seconds_of_training, choice=choice)


def _train_one(training: Training, options: argparse.Namespace, *, resumed: bool) -> None:
    run = training.run
    if options.past_exp is not None:
        start: Path | None = Path(run.args.init_ckpt)
    else:
        start = distributed.from_main(lambda: newest_checkpoint(run.folder)) if resumed else None
    if start is not None and load_checkpoint(start)["Step"] >= run.config["runner"]["total_steps"]:
        say(f"{start}: already at the last step.")
        return
    if training.name:
        say(f"{run.task.name} {training.name}: training in {run.folder}")
    if resumed:
        say(f"Resuming from {start or 'the beginning: no checkpoint was saved yet'}.")
    if start is None or options.past_exp is not None:
        s3prl_runner.save_settings(run)
    s3prl_runner.train(run, start)


def _evaluate_only(run: DownstreamRun, begun: BegunRun, options: argparse.Namespace) -> None:
    named = named_checkpoint(run, past_exp=options.past_exp, init_ckpt=options.init_ckpt)
    previous = read_begun(run.folder)
    if previous is not None:
        refuse_another_run(run.folder, previous, begun)
        if previous.protocol != "official" or begun.protocol == "official":  # earlier versions compared fewer settings
            begun.protocol, begun.protocol_note = previous.protocol, previous.protocol_note
    target, look = run.folder / result_name(run, named), look_of(run)  # read now: the training may end in the meantime
    if target.is_file() and not options.force:
        refuse_another_checkpoint(target, [named] if named else run.driver.evaluations(run, []))
        print(f"{target}: evaluated before; nothing to do.")
        show_result(read_result(target), target)
        return
    with locked(run.folder, _evaluation_lock(run)):
        if previous is None and not run.driver.trains:
            write_begun(run.folder, begun)
        if target.is_file():
            move_aside(target)
        _evaluate(run, begun, target, look=look, named=named, afresh=options.force)


def _evaluate(
    run: DownstreamRun,
    begun: BegunRun,
    target: Path,
    *,
    look: str | None,
    named: Evaluation | None = None,
    afresh: bool = False,
    train_seconds: float | None = None,
    choice: Choice | None = None,
) -> None:
    driver = run.driver
    parts: list[Part] = []
    to_do = [named] if named else driver.evaluations(run, [])
    while to_do:
        for evaluation in to_do:
            parts.append(evaluate_part(evaluation, afresh=afresh))
            if evaluation.name:
                show_part(run, parts[-1])
        to_do = [] if named else driver.evaluations(run, parts)
    combined = driver.combine(parts)
    protocol, note = begun.protocol, begun.protocol_note
    if named and protocol == "official":
        protocol, note = "custom", f"differs from the benchmark in the checkpoint, {named.rule}"
    result = Result(
        task=run.task.name,
        split=run.args.evaluate_split,
        num_utterances=sum(p.num_utterances for p in ([combined.chosen] if combined.chosen else parts)),
        metrics=combined.metrics,
        printed_by_s3prl=combined.chosen.printed_by_s3prl if combined.chosen else [],
        rule=combined.rule,
        parts=parts if len(parts) > 1 else None,
        protocol=protocol,
        protocol_note=note,
        upstream=begun.upstream,
        checkpoint=combined.chosen.checkpoint if combined.chosen else None,
        tried_rates=choice.with_metrics(combined.metrics) if choice else None,
        corpus=str(run.corpus),
        splits=run.splits,
        config_sha256=run.config_sha256,
        seed=run.args.seed,
        device=run.args.device,
        command=begun.command,
        versions=s3prl_runner.versions(),
        date=_now(),
        seconds=Seconds(train=train_seconds, evaluate=sum(part.seconds.evaluate for part in parts)),
        look=look,
    )
    write_result(target, result)
    if run.features == run.folder / OWN_FEATURES and run.features.is_dir():
        drop_features(run.features)
    show_result(result, target)


def _transcribe(run: DownstreamRun, options: argparse.Namespace) -> None:
    named = named_checkpoint(run, past_exp=options.past_exp, init_ckpt=options.init_ckpt)
    evaluation = named or run.driver.evaluations(run, [])[0]
    assert evaluation.checkpoint is not None, "a task that transcribes is trained"
    print(s3prl_runner.transcribe(run, evaluation.checkpoint, options.evaluate_split))


def _evaluation_lock(run: DownstreamRun) -> str:
    """One lock per split: its evaluations write the same files, but other splits may be evaluated meanwhile."""
    return f".evaluate-{run.args.evaluate_split}.lock"


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
