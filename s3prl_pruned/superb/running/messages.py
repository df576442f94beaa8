"""What a run prints: its corpus and model, its progress, its result."""

from __future__ import annotations

from pathlib import Path

from s3prl_pruned import distributed
from s3prl_pruned.superb.catalogue import Value
from s3prl_pruned.superb.results.result import Part, Result, Upstream
from s3prl_pruned.superb.tasks.driver import DownstreamRun


def announce(run: DownstreamRun, upstream: Upstream) -> None:
    """Print what will be run: the corpus, the model, and where features are cached."""
    if run.embedded:
        say(
            f"Corpus: the embedded speech, {run.protocol} protocol. The paper's recipe is one option away: "
            "--corpus /data/LibriSpeech"
        )
    else:
        note = f" ({run.protocol_note})" if run.protocol_note else ""
        say(f"Corpus: {run.corpus}, {run.protocol} protocol{note}")
    say(f"Upstream: {_description(upstream)}")
    if run.features:
        say(f"Features: cached in {run.features}")


def say(text: str) -> None:
    """Print and flush, in the first process only."""
    if distributed.is_main():
        print(text, flush=True)


def _description(upstream: Upstream) -> str:
    parts = [upstream.name]
    if upstream.num_parameters:
        parts.append(f"{upstream.num_parameters:,} parameters")
    parts.append(f"SHA-256 {upstream.sha256}" if upstream.sha256 else "no weights")
    parts += [part for part in (upstream.path, upstream.teacher_note) if part]
    return ", ".join(parts)


def show_result(result: Result, path: Path) -> None:
    """Print a result and its file."""
    note = f", {result.upstream.teacher_note}" if result.upstream.teacher_note else ""
    print(f"{result.task} {result.split}: {_rates(result.metrics)} on {result.num_utterances} utterances")
    if result.rule:
        print(f"  {result.rule}{':' if result.parts else ''}")
        for part in result.parts or []:
            print(f"    {part.name} {part.split}: {_rates(part.metrics)} on {part.num_utterances} utterances")
    print(f"  upstream {result.upstream.name}{note}; {result.protocol} protocol")
    if result.look:
        print(f"  early evaluation, not the task's result: {result.look}")
    if result.by_hand:
        print("  of a checkpoint picked by hand, not by the benchmark's rule")
    if result.checkpoint:
        print(f"  checkpoint {result.checkpoint.file}, step {result.checkpoint.step}: {result.checkpoint.rule}")
    print(f"  {path}")


def show_part(run: DownstreamRun, part: Part) -> None:
    """Print one of a task's several evaluations, as soon as it is finished."""
    print(f"{run.task.name} {part.name} {part.split}: {_rates(part.metrics)}", flush=True)


def _rates(metrics: list[Value]) -> str:
    return ", ".join(f"{value.name.upper()} {value.percent:.2f} %" for value in metrics)
