"""`make run` after installation: the three commands as a user types them, then a summary of the results."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.own_commands import call, typed
from s3prl_pruned.plan.carry_out import require_clone
from s3prl_pruned.report.summary import PartTime, as_json, as_markdown, gather, path_of, read_runs
from s3prl_pruned.superb.results.result import write_json
from s3prl_pruned.timing.clock import TimingSetting, compare
from s3prl_pruned.timing.document import document
from s3prl_pruned.upstream.load import load_model

RESULTS = Path("results")
SCREEN = Path("result") / "quickstart"  # .json and .md
_LENGTHS = (1.0, 5.0)  # seconds of audio at which the speed-up is measured
_REPEATS = 31
_SAVED = (130, 75)  # command_line.Interrupted: by Ctrl-C, by SIGTERM


@dataclass(frozen=True, kw_only=True)
class QuickstartPart:
    """One command."""

    title: str
    name: str
    """Of the command."""
    options: tuple[str, ...]
    product: Path | None = None
    """What exists if it was finished before; None for a part that runs each time."""

    @property
    def command(self) -> tuple[str, ...]:
        """The words that start the process."""
        return (*call(self.name), *self.options)

    @property
    def typed(self) -> str:
        """The command as a user types it."""
        return typed(self.name, *self.options)


def _recognition(upstream: str, title: str) -> QuickstartPart:
    return QuickstartPart(
        title=f"speech recognition on {title}",
        name="downstream",
        options=("-u", upstream, "-d", "asr", "-a"),
        product=RESULTS / upstream / "asr" / "result.json",
    )


PARTS = (
    QuickstartPart(
        title="distil and prune the embedded teacher",
        name="pretrain",
        options=("-u", "wavlm_pruned_distill", "-a"),
        product=Path("result/pretrain/wavlm_pruned_distill/embedded/export"),
    ),
    _recognition("fbank", "FBANK"),
    _recognition("wavlm_embedded", "the dense teacher"),
    _recognition("wavlm_pruned", "the pruned model"),
    QuickstartPart(title="SUPERB score", name="score", options=("results/",)),
)
"""In order; the last one's output is the score table."""


class CommandFailed(Exception):
    """A part ended with an error.

    Attributes:
        status: its exit status.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


def run_quickstart(parts: tuple[QuickstartPart, ...] = PARTS) -> int:
    """Run all parts in the working directory, and print the summary.

    Args:
        parts: in order; the last one's output is the score table.

    Returns:
        0, or the exit status of the part that failed.

    Raises:
        UserError: this is not the clone's root, or the parts' files do not match.
    """
    require_clone(*(part.command[1] for part in parts))
    started, times, output = time.monotonic(), [], ""
    try:
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            print(f"\n[{number}/{len(parts)}] {part.title}: {part.typed}", flush=True)
            seconds, reused, output = _run(part, capture=last)
            times.append(PartTime(title=part.title, command=part.typed, seconds=seconds, reused=reused))
            print(f"[{number}/{len(parts)}] {'reused' if reused else 'done'}, {seconds:.0f} s", flush=True)
    except CommandFailed as failure:
        print(f"error: {failure}", file=sys.stderr)
        return failure.status
    print("\ntiming the pruned model against the teacher", flush=True)
    runs = read_runs(RESULTS)
    timing = _time_models(path_of(runs["teacher"]), path_of(runs["pruned"]))
    seconds = time.monotonic() - started
    summary = gather(runs, timing=timing, score_table=output, parts=times, seconds=seconds)
    screen = as_markdown(summary)
    SCREEN.parent.mkdir(exist_ok=True)
    write_json(SCREEN.with_suffix(".json"), as_json(summary))
    SCREEN.with_suffix(".md").write_text(screen)
    print(f"\n{screen}this summary: {SCREEN}.md, {SCREEN}.json")
    return 0


def _time_models(teacher: Path, pruned: Path) -> dict:
    """The timing's document, with the teacher as baseline."""
    setting = TimingSetting(baseline="teacher", repeats=_REPEATS)
    models = {"teacher": load_model(teacher).encoder, "pruned": load_model(pruned).encoder}
    results = [result for seconds in _LENGTHS for result in compare(models, setting, seconds=seconds)]
    return document(setting, results)


def _run(part: QuickstartPart, *, capture: bool) -> tuple[float, bool, str]:
    """Run one command to its end.

    Args:
        part: the command.
        capture: return its standard output for the summary instead of printing it.

    Returns:
        Seconds, whether its product existed before, and its standard output (empty if not captured).
    """
    reused = part.product is not None and part.product.exists()
    started = time.monotonic()
    with subprocess.Popen(part.command, stdout=subprocess.PIPE if capture else None, text=True) as process:
        while True:
            try:
                output, _ = process.communicate()
                break
            except KeyboardInterrupt:  # Ctrl-C reaches the command too, which saves before it ends: wait for it
                continue
    status = process.returncode
    if status == 0:
        return time.monotonic() - started, reused, output or ""
    if output:
        print(output, end="")
    ended = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
    status = 128 - status if status < 0 else status
    advice = "The run is saved; the same command resumes it." if status in _SAVED else "See its message above."
    raise CommandFailed(f"{part.title}: `{part.typed}` {ended}. {advice}", status)
