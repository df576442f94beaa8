"""Run a SUPERB task with s3prl's own runner, and keep what it forgets: ``result.json``.

    read and check everything -> settle what the folder holds -> train -> pick the checkpoint
    -> evaluate -> recompute the metrics from what was kept -> write result.json

s3prl's runner and experts do the training and the decoding. ``results/<upstream>/<task>/`` holds their
files, ``stdout.log`` (all that s3prl printed), ``run.json`` (what was begun) and ``result.json``.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
import time
from pathlib import Path

from s3prl_pruned.command_line import Interrupted
from s3prl_pruned.config import UserError
from s3prl_pruned.superb import host
from s3prl_pruned.superb.experiment import Experiment, load_checkpoint, make_experiment, newest_checkpoint
from s3prl_pruned.superb.options import make_parser
from s3prl_pruned.superb.results import (
    RESULT_FILE, Checkpoint, Result, Seconds, Upstream, Value, error_rates, read_arks, read_result, write_result,
)  # fmt: skip
from s3prl_pruned.superb.run_folder import (
    BegunRun, move_aside, read_begun, refuse_another_run, settle_training, write_begun,
)  # fmt: skip
from s3prl_pruned.superb.upstreams import describe_upstream

BEST = "dev-clean-best.ckpt"
"""What s3prl's asr writes whenever the WER on dev-clean falls, beginning below 100 %."""


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
    experiment = make_experiment(options)
    _announce(experiment)
    upstream = describe_upstream(experiment.args)
    experiment.args.upstream_refresh = False  # once is enough
    print(f"Upstream: {_describe(upstream)}", flush=True)
    begun = BegunRun(
        config_sha256=experiment.config_sha256,
        upstream=upstream,
        splits=experiment.splits,
        protocol=experiment.protocol,
        protocol_note=experiment.protocol_note,
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
    stage = settle_training(
        folder, begun, resume=options.auto_resume or options.past_exp is not None, force=options.force
    )
    if stage == "finished":
        print(f"{folder}: finished before with the same settings, model and corpus; nothing to do.")
        _show(read_result(folder / RESULT_FILE), folder / RESULT_FILE)
        return
    start = None
    if stage == "start":
        write_begun(folder, begun)
        host.save_settings(experiment)
    elif options.past_exp is None:
        start = newest_checkpoint(folder)
    if options.past_exp is not None:
        start = Path(experiment.args.init_ckpt)
    if stage == "resume":
        print(f"Going on from {start or 'the beginning: no checkpoint was saved yet'}.", flush=True)

    began = time.monotonic()
    host.train(experiment, start)
    seconds = time.monotonic() - began
    if options.mode == "train":
        print(f"{folder}: trained in {seconds:.0f} s. `-m evaluate` with the same options evaluates it.")
        return
    path, rule = _pick_checkpoint(folder)
    _evaluate(experiment, begun, path, rule, train_seconds=seconds)


def _evaluate_only(experiment: Experiment, begun: BegunRun, options: argparse.Namespace) -> None:
    path, rule = _named_checkpoint(options) or _pick_checkpoint(experiment.folder)
    previous = read_begun(experiment.folder)
    if previous is not None:
        refuse_another_run(experiment.folder, previous, begun)
        begun.protocol, begun.protocol_note = previous.protocol, previous.protocol_note
    target = experiment.folder / _result_name(experiment)
    if target.is_file() and options.force:
        move_aside(target)
    elif target.is_file():
        result = read_result(target)
        if result.checkpoint is None or (result.checkpoint.file, result.checkpoint.rule) != (path.name, rule):
            raise UserError(f"{target}: is of another checkpoint. Give --force to move it aside.")
        print(f"{target}: evaluated before; nothing to do.")
        _show(result, target)
        return
    _evaluate(experiment, begun, path, rule, train_seconds=None)


def _evaluate(
    experiment: Experiment, begun: BegunRun, checkpoint: Path, rule: str, *, train_seconds: float | None
) -> None:
    split = experiment.args.evaluate_split
    step = load_checkpoint(checkpoint)["Step"]
    began = time.monotonic()
    printed = host.evaluate(experiment, checkpoint)
    seconds = time.monotonic() - began
    hypotheses, references = read_arks(experiment.folder, split)
    expected = experiment.num_utterances(split)
    if len(references) != expected:
        raise UserError(
            f"{split}: all {expected} utterances must be scored, but s3prl scored {len(references)}. Remove "
            "config.runner.evaluate_ratio, or set config.downstream_expert.datarc.eval_batch_size=1."
        )
    metrics = error_rates(hypotheses, references)
    _compare(metrics, printed, split)
    result = Result(
        task=experiment.task.name,
        split=split,
        num_utterances=expected,
        metrics=metrics,
        printed_by_s3prl=printed,
        protocol=begun.protocol,
        protocol_note=begun.protocol_note,
        upstream=begun.upstream,
        checkpoint=Checkpoint(file=checkpoint.name, step=step, rule=rule),
        corpus=str(experiment.corpus),
        splits=experiment.splits,
        config_sha256=experiment.config_sha256,
        seed=experiment.args.seed,
        device=experiment.args.device,
        command=begun.command,
        versions=host.versions(),
        date=_now(),
        seconds=Seconds(train=train_seconds, evaluate=seconds),
    )
    path = experiment.folder / _result_name(experiment)
    write_result(path, result)
    _show(result, path)


def _transcribe(experiment: Experiment, options: argparse.Namespace) -> None:
    path, _ = _named_checkpoint(options) or _pick_checkpoint(experiment.folder)
    print(host.transcribe(experiment, path, options.evaluate_split))


def _named_checkpoint(options: argparse.Namespace) -> tuple[Path, str] | None:
    """What -e or -i names, and the rule to write down."""
    for letter, name in (("-e", options.past_exp), ("-i", options.init_ckpt)):
        if name is not None:
            path = Path(name)
            if path.is_dir():
                path = newest_checkpoint(path) or path
            return path, f"named by {letter}"
    return None


def _pick_checkpoint(folder: Path) -> tuple[Path, str]:
    """The benchmark's choice: the lowest WER on dev-clean; where none was below 100 %, the last."""
    if (folder / BEST).is_file():
        return folder / BEST, "lowest WER on dev-clean"
    path = newest_checkpoint(folder)
    if path is None:
        raise UserError(f"{folder}: holds no checkpoint. Train first (-m train or all), or name one by -e.")
    return path, "the last one, since the WER on dev-clean never got below 100 %"


def _compare(metrics: list[Value], printed: list[Value], split: str) -> None:
    """What s3prl printed and what its files say must be one number."""
    ours = {value.name: value.value for value in metrics}
    theirs = {value.name: value.value for value in printed}
    if "wer" not in theirs or abs(theirs["wer"] - ours["wer"]) > 1e-6:
        raise RuntimeError(f"{split}: s3prl printed WER {theirs.get('wer')}, its files give {ours['wer']}.")


def _result_name(experiment: Experiment) -> str:
    split = experiment.args.evaluate_split
    return RESULT_FILE if split == experiment.task.test_split else f"result-{split}.json"


def _announce(experiment: Experiment) -> None:
    if experiment.embedded:
        print(
            f"Corpus: the embedded speech, {experiment.protocol} protocol. The paper's recipe is one option "
            "away: --corpus /data/LibriSpeech",
            flush=True,
        )
    else:
        note = f" ({experiment.protocol_note})" if experiment.protocol_note else ""
        print(f"Corpus: {experiment.corpus}, {experiment.protocol} protocol{note}", flush=True)


def _describe(upstream: Upstream) -> str:
    parts = [upstream.name]
    if upstream.num_parameters:
        parts.append(f"{upstream.num_parameters:,} parameters")
    parts.append(f"SHA-256 {upstream.sha256}" if upstream.sha256 else "no weights")
    parts += [part for part in (upstream.path, upstream.teacher_note) if part]
    return ", ".join(parts)


def _show(result: Result, path: Path) -> None:
    note = f", {result.upstream.teacher_note}" if result.upstream.teacher_note else ""
    rates = ", ".join(f"{value.name.upper()} {value.percent:.2f} %" for value in result.metrics)
    print(f"{result.task} {result.split}: {rates} on {result.num_utterances} utterances")
    print(f"  upstream {result.upstream.name}{note}; {result.protocol} protocol")
    if result.checkpoint:
        print(f"  checkpoint {result.checkpoint.file}, step {result.checkpoint.step}: {result.checkpoint.rule}")
    print(f"  {path}")


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
