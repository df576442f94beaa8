"""`python run_pretrain.py`: from options to a finished export. s3prl's option letters keep their meaning."""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

from s3prl_pruned import checkpoint, distributed
from s3prl_pruned.compressors.magnitude import weights_left
from s3prl_pruned.config import UserError
from s3prl_pruned.data.waveforms import SAMPLE_RATE
from s3prl_pruned.formats.folder import load_encoder
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.own_commands import typed
from s3prl_pruned.pretrain import runner
from s3prl_pruned.pretrain.config import LoopConfig
from s3prl_pruned.pretrain.dry_run import describe, dry_run
from s3prl_pruned.pretrain.expert import SECONDS_OF_MACS, Expert
from s3prl_pruned.pretrain.finish import describe_export, export_checkpoint
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.pretrain.recipes import whole_recipe
from s3prl_pruned.pretrain.report import held_out_lines, target_lines
from s3prl_pruned.pretrain.resolve import (
    UPSTREAMS,
    family_of,
    parse_arguments,
    resolve,
    resolve_past,
    resolve_second_stage,
)
from s3prl_pruned.pretrain.run_folder import (
    DEFAULTS,
    EXPORT,
    RUN,
    Run,
    prepare_folder,
    recorded_command,
    warn_of_changed_speech,
)
from s3prl_pruned.pretrain.trainer import parts_of_micro_batch
from s3prl_pruned.sparsity.counts import macs, parameters, prunable_weights


def main(
    argv: list[str] | None = None,
    *,
    on_checkpoint: Callable[[Path], None] | None = None,
    on_finished: Callable[[Path], None] | None = None,
) -> Path | None:
    """Train and export; returns the folder of the last run in the main process, else None (also after `--dry-run`).

    Args:
        argv: command line; None takes that of the process.
        on_checkpoint: see `runner.train`.
        on_finished: called in the main process with the folder of each finished run.

    Raises:
        UserError: any error that the user can fix.
        Interrupted: stopped by a signal, after saving.
    """
    args = parse_arguments(argv)
    args.command = typed("pretrain", *(sys.argv[1:] if argv is None else argv))
    if args.upstream not in UPSTREAMS:
        raise UserError(f"`-u` must be one of {list(UPSTREAMS)}, but is {args.upstream!r}.")
    run = resolve_past(args) if args.past_exp else resolve(args)
    second = resolve_second_stage(args, run) if args.second_stage else None
    args.device = distributed.start(args.device, timeout_seconds=run.runner.runner.process_timeout)
    if run.recipe == run.objective.default and distributed.is_main():
        small = "small teacher, small speech corpus, few steps"
        whole = whole_recipe(*args.upstream.split("_pruned_"))
        advice = f"Full size: --recipe {whole} --corpus {run.objective.corpus}"
        print(f"recipe `{run.recipe}`: {small}. {advice}", flush=True)
    try:
        if args.dry_run:
            _dry_run(run, args)
            if second is not None and distributed.is_main():
                print(f"{second.folder}: the second stage was not checked, since its student does not exist yet")
            return None
        folder = None
        for each in filter(None, (run, second)):
            distributed.from_main(lambda: None)  # all processes wait until the first run's export exists
            with contextlib.ExitStack() as held:
                folder = _train_and_export(each, args, on_checkpoint, held)
            if folder is not None and on_finished is not None:
                on_finished(folder)
        return folder
    finally:
        distributed.stop()


def _train_and_export(
    run: Run,
    args: argparse.Namespace,
    on_checkpoint: Callable[[Path], None] | None,
    held: contextlib.ExitStack,
) -> Path | None:
    args.auto_resume |= distributed.restarted()
    resume_from = distributed.from_main(lambda: prepare_folder(run, args, held))
    if distributed.from_main(lambda: resume_from is None and (run.folder / EXPORT).exists()):
        return _report(run, args.device, finished_before=True) if distributed.is_main() else None
    expert = _expert(run, args)
    if distributed.is_main():
        _announce(run, args, expert, resume_from)
        if resume_from is None:
            record = {"command": args.command, "recipe": run.recipe, "defaults": DEFAULTS, "speech": expert.speech}
            record |= run.identity()
            checkpoint.write_text(run.folder / RUN, json.dumps(record, indent=1) + "\n")
        else:
            warn_of_changed_speech(run, expert.speech)
    runner.train(expert, run.runner, run.folder, seed=run.seed, resume_from=resume_from, on_checkpoint=on_checkpoint)
    if not distributed.is_main():
        return None
    last = checkpoint.checkpoint_path(run.folder, run.runner.runner.total_steps)
    export_checkpoint(last, run.folder / EXPORT, command=recorded_command(run.folder))
    return _report(run, args.device)


def _expert(run: Run, args: argparse.Namespace) -> Expert:
    datarc = run.runner.pretrain_expert.datarc
    return run.objective.expert(datarc, run.model, args.device, seed=run.seed, family=family_of(args))


def _dry_run(run: Run, args: argparse.Namespace) -> None:
    expert = _expert(run, args)
    if distributed.is_main():
        _announce(run, args, expert, None)
    found = dry_run(expert, run.runner, run.folder, seed=run.seed)
    if distributed.is_main():
        print(describe(found, run.runner, args.device))


def _announce(run: Run, args: argparse.Namespace, expert: Expert, resume_from: Path | None) -> None:
    teacher, batches, loop = expert.loaded_teacher, expert.batches, run.runner.runner
    note = f", {teacher.note.upper()}" if teacher.note else ""
    print(f"teacher: {teacher.name} ({teacher.encoder.num_parameters():,} parameters{note})")
    datarc = run.runner.pretrain_expert.datarc
    sets = f", {' '.join(datarc.sets)}" if datarc.sets else ""
    print(f"speech: {datarc.corpus or 'embedded'}{sets}: {batches.num_utterances} utterances, {batches.hours:.2f} h")
    if distributed.world_size() > 1:
        print(_shared(distributed.world_size(), loop, resumed=resume_from is not None))
    print(f"{loop.total_steps} steps on {args.device}, {expert.aim}, into {run.folder}")
    if loop.fp16 and not loop.bf16 and not args.device.startswith("cuda"):
        print("fp16 is for CUDA; this device computes in fp32")
    if resume_from:
        print(f"continuing from {resume_from}")
    sys.stdout.flush()


def _shared(processes: int, loop: LoopConfig, *, resumed: bool) -> str:
    """One line: the work of each of several processes in a step."""
    if resumed:
        return f"{processes} processes, which share the global batch of the run"
    per_step = loop.micro_batches_per_step(processes)
    parts = parts_of_micro_batch(per_step, processes)
    own = f"{per_step * parts // processes} {'micro-batches' if parts == 1 else f'parts of {parts} of a micro-batch'}"
    if loop.scale_batch_with_processes:
        scale = f"the global batch is {processes} times the recipe's (runner.scale_batch_with_processes)"
    else:
        scale = "the global batch is the recipe's (runner.scale_batch_with_processes=true multiplies it)"
    return f"{processes} processes, {own} each per step; {scale}"


def _report(run: Run, device: str, *, finished_before: bool = False) -> Path:
    """Print the result of a run, from the files of its export. A recogniser is tested first, if it was not yet."""
    folder = run.folder / EXPORT
    encoder, provenance = load_encoder(folder)
    config, spec, dense = encoder.config, encoder.spec, CompactSpec.dense(encoder.config)
    if finished_before:
        print(f"{run.folder}: this run is finished already; nothing to do (--force starts anew).")
    before, after = sum(parameters(config, dense).values()), encoder.num_parameters()
    work = [sum(macs(config, s, SECONDS_OF_MACS * SAMPLE_RATE).values()) / 1e9 for s in (dense, spec)]
    if provenance["teacher_note"]:
        print(f"note: {provenance['teacher_note']}")
    tolerance, advice = run.model.sparsity.tolerance, run.model.advice
    lines = target_lines(provenance["sparsity"], tolerance=tolerance, advice=advice)
    print("\n".join(lines + held_out_lines(read_log(run.folder), run.folder)))
    zeros = prunable_weights(config, spec) - weights_left(encoder)
    print(
        f"parameters: {before:,} -> {after:,}"
        + f" ({after - zeros:,} not zero; zeros do not make it faster)" * bool(zeros)
        + f"; MACs for {SECONDS_OF_MACS} s: {work[0]:.3f} G -> {work[1]:.3f} G"
    )
    for line in run.objective.test_lines(run.folder, folder, run.runner.pretrain_expert.datarc, device):
        print(line)
    print(f"exported to {describe_export(folder)}")
    return run.folder
