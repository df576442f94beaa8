"""`make run` after installation: the three commands as a user types them, then one screen of what came of them."""

import logging
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from s3prl_pruned.config import UserError
from s3prl_pruned.measure.summary import PartTime, as_json, as_markdown, gather
from s3prl_pruned.superb.results import write_json

logger = logging.getLogger(__name__)

RESULTS = Path("results")
SCREEN = Path("result") / "quickstart"  # .json and .md
_SAVED = (130, 75)  # command_line.Interrupted: by Ctrl-C, by SIGTERM


@dataclass(frozen=True, kw_only=True)
class Part:
    """One command."""

    title: str
    command: tuple[str, ...]
    """What follows `python`."""
    product: Path | None = None
    """What stands when it was finished before; None for what is made anew each time."""

    @property
    def typed(self) -> str:
        return " ".join(("python", *self.command))


def _recognition(upstream: str, title: str) -> Part:
    return Part(
        title=f"speech recognition on {title}",
        command=("run_downstream.py", "-u", upstream, "-d", "asr", "-a"),
        product=RESULTS / upstream / "asr" / "result.json",
    )


PARTS = (
    Part(
        title="distil and prune the embedded teacher",
        command=("run_pretrain.py", "-u", "wavlm_pruned_distill", "-a"),
        product=Path("result/pretrain/wavlm_pruned_distill/embedded/export"),
    ),
    _recognition("fbank", "FBANK"),
    _recognition("wavlm_embedded", "the dense teacher"),
    _recognition("wavlm_pruned", "the pruned model"),
    Part(title="SUPERB score", command=("tools/superb_score.py", "results/")),
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


def main(parts: tuple[Part, ...] = PARTS) -> int:
    """Run all parts in the working directory, which is the clone's root, and print the screen.

    Returns:
        0, or the exit status of the part that failed.

    Raises:
        UserError: this is not the clone's root, or the parts' files do not fit together.
    """
    absent = [part.command[0] for part in parts if not Path(part.command[0]).is_file()]
    if absent:
        raise UserError(f"{Path.cwd()}: must be the root of the clone, but has no {absent[0]}. Change into the clone.")
    started, times, output = time.monotonic(), [], ""
    try:
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            print(f"\n[{number}/{len(parts)}] {part.title}: {part.typed}", flush=True)
            seconds, reused, output = _run(part, capture=last)
            times.append(PartTime(title=part.title, command=part.typed, seconds=seconds, reused=reused))
            print(f"[{number}/{len(parts)}] {'stood already' if reused else 'done'}, {seconds:.0f} s", flush=True)
    except CommandFailed as failure:
        print(f"error: {failure}", file=sys.stderr)
        return failure.status
    print("\ntiming the pruned model against the teacher", flush=True)
    summary = gather(results=RESULTS, score_table=output, parts=times, seconds=time.monotonic() - started)
    summary.seconds = time.monotonic() - started
    screen = as_markdown(summary)
    SCREEN.parent.mkdir(exist_ok=True)
    write_json(SCREEN.with_suffix(".json"), as_json(summary))
    SCREEN.with_suffix(".md").write_text(screen)
    print(f"\n{screen}this screen: {SCREEN}.md, {SCREEN}.json")
    return 0


def _run(part: Part, *, capture: bool) -> tuple[float, bool, str]:
    """Run one command to its end.

    Args:
        capture: keep its standard output for the screen instead of showing it at once.

    Returns:
        Seconds, whether its product stood before, and its standard output (empty if not captured).
    """
    reused = part.product is not None and part.product.exists()
    started = time.monotonic()
    with subprocess.Popen([sys.executable, *part.command], stdout=subprocess.PIPE if capture else None, text=True) as process:
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
    advice = "It is saved; the same call goes on from there." if status in _SAVED else "Its own message stands above."
    raise CommandFailed(f"{part.title}: `{part.typed}` {ended}. {advice}", status)
