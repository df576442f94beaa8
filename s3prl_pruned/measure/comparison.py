"""Is one upstream better than another on the embedded ASR? Grid, seeds, and a paired bootstrap.

Each upstream is trained with every learning rate and seed by `run_downstream.py`; per upstream the learning rate with
the lowest dev error, averaged over seeds, is taken; test errors of its seeds are compared. Intervals are percentiles of
a bootstrap that resamples test utterances (the same for both upstreams) and seeds.
"""

import itertools
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import editdistance
import numpy as np

from s3prl_pruned.config import UserError
from s3prl_pruned.superb.results import RESULT_FILE, read_arks, read_result

REPLICATES = 10_000
TEST_SPLIT = "test-clean"


@dataclass(frozen=True)
class Candidate:
    """An upstream to compare."""

    name: str
    upstream: str
    """`-u`."""
    checkpoint: str | None = None
    """`-k`; `{seed}` in it stands for the seed of the task, so that each goes with its own pruning run."""


@dataclass(frozen=True)
class Job:
    """One training and evaluation."""

    candidate: Candidate
    learning_rate: float
    seed: int
    folder: Path

    def command(self, steps: int) -> list[str]:
        # Evaluated every 100 steps, so that "dev stopped improving" can be seen.
        override = f"config.optimizer.lr={self.learning_rate},,config.runner.total_steps={steps},,config.runner.eval_step=100"
        path = self.candidate.checkpoint
        checkpoint = ["-k", path.replace("{seed}", str(self.seed))] if path else []
        return [
            sys.executable, "run_downstream.py", "-u", self.candidate.upstream, *checkpoint, "-d", "asr", "-a",
            "-p", str(self.folder), "--seed", str(self.seed), "-o", override,
        ]  # fmt: skip


@dataclass
class Outcome:
    """What one job gave; error rates in percent."""

    candidate: str
    learning_rate: float
    seed: int
    dev_error: float
    """Lowest unit error rate on dev, as s3prl prints it (letters and separators)."""
    dev_step: int
    """The step of the lowest dev error: well before the last, dev has stopped improving."""
    last_step: int
    cer: float
    wer: float
    checkpoint_rule: str
    sha256: str | None


def plan(candidates: list[Candidate], learning_rates: list[float], seeds: list[int], root: Path) -> list[Job]:
    """All jobs; the seeds vary slowest, so that a first answer is there early."""
    return [
        Job(candidate, rate, seed, root / candidate.name / f"lr{rate:g}-seed{seed}" / "asr")
        for seed, candidate, rate in itertools.product(seeds, candidates, learning_rates)
    ]


def run_jobs(jobs: list[Job], *, steps: int, parallel: int) -> None:
    """Run what is not finished yet, `parallel` at a time, one thread each.

    Raises:
        UserError: a job failed; its log is named. The others are finished first.
    """

    def run(job: Job) -> str | None:
        if (job.folder / RESULT_FILE).is_file():
            return None
        job.folder.mkdir(parents=True, exist_ok=True)
        log = job.folder.parent / "command.log"
        with open(log, "a") as file:
            code = subprocess.run(job.command(steps), stdout=file, stderr=subprocess.STDOUT, env=_one_thread()).returncode
        print(f"{job.folder}: {'done' if code == 0 else f'failed with exit code {code}'}", flush=True)
        return None if code == 0 else f"{shlex.join(job.command(steps))} (see {log})"

    with ThreadPoolExecutor(parallel) as pool:
        failed = [message for message in pool.map(run, jobs) if message]
    if failed:
        raise UserError(f"{len(failed)} of {len(jobs)} runs failed; the first: {failed[0]}")


def _one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def outcome(job: Job) -> Outcome:
    """Read a finished job."""
    result = read_result(job.folder / RESULT_FILE)
    rates = {value.name: value.percent for value in result.metrics}
    steps = dev_curve((job.folder / "stdout.log").read_text(), interval=100)
    step, error = min(steps.items(), key=lambda item: item[1])
    return Outcome(
        candidate=job.candidate.name,
        learning_rate=job.learning_rate,
        seed=job.seed,
        dev_error=error,
        dev_step=step,
        last_step=max(steps),
        cer=rates["cer"],
        wer=rates["wer"],
        checkpoint_rule=result.checkpoint.rule,
        sha256=result.upstream.sha256,
    )


def dev_curve(log: str, *, interval: int) -> dict[int, float]:
    """Unit error rate on dev by step, from what s3prl printed every `interval` steps."""
    errors = re.findall(r"^dev-clean uer: (\S+)$", log, flags=re.MULTILINE)
    if not errors:
        raise UserError("the log holds no evaluation on dev-clean.")
    return {interval * (i + 1): float(error) for i, error in enumerate(errors)}


def chosen_rate(outcomes: list[Outcome], candidate: str) -> float:
    """The learning rate with the lowest dev error, averaged over seeds."""
    rates = {o.learning_rate for o in outcomes if o.candidate == candidate}
    return min(rates, key=lambda rate: np.mean([o.dev_error for o in _runs(outcomes, candidate, rate)]))


def _runs(outcomes: list[Outcome], candidate: str, rate: float) -> list[Outcome]:
    return [o for o in outcomes if o.candidate == candidate and o.learning_rate == rate]


def character_errors(jobs: list[Job]) -> tuple[np.ndarray, np.ndarray]:
    """Edits (seeds, utterances) and reference lengths (utterances,) in characters, utterances sorted by id."""
    edits, lengths = [], None
    for job in jobs:
        hypotheses, references = read_arks(job.folder, TEST_SPLIT)
        keys = sorted(references)
        edits.append([editdistance.eval(hypotheses[key], references[key]) for key in keys])
        lengths = np.array([len(references[key]) for key in keys])
    return np.array(edits), lengths


def relative_difference(
    edits: np.ndarray, baseline: np.ndarray, lengths: np.ndarray, *, seed: int = 0
) -> tuple[float, float, float]:
    """Relative change of the CER against a baseline, and its 95 % bootstrap interval.

    Args:
        edits, baseline: (seeds, utterances) edits of the two upstreams on the same utterances.
        lengths: (utterances,) reference characters.

    Returns:
        (change, lower, upper), as fractions: -0.1 is a CER 10 % below the baseline's.
    """

    def change(a: np.ndarray, b: np.ndarray) -> float:
        return a.sum() / len(a) / (b.sum() / len(b)) - 1  # the reference length cancels

    generator = np.random.default_rng(seed)
    samples = []
    for _ in range(REPLICATES):
        utterances = generator.integers(len(lengths), size=len(lengths))
        rows_a, rows_b = (generator.integers(len(x), size=len(x)) for x in (edits, baseline))
        samples.append(change(edits[np.ix_(rows_a, utterances)], baseline[np.ix_(rows_b, utterances)]))
    lower, upper = np.percentile(samples, [2.5, 97.5])
    return change(edits, baseline), float(lower), float(upper)


def summarise(jobs: list[Job], baseline: str) -> dict:
    """JSON data: every outcome, and per candidate the chosen rate, mean and spread, and the change against `baseline`."""
    outcomes = [outcome(job) for job in jobs]
    names = list(dict.fromkeys(job.candidate.name for job in jobs))
    chosen = {name: chosen_rate(outcomes, name) for name in names}
    selected = {name: [job for job in jobs if job.candidate.name == name and job.learning_rate == chosen[name]] for name in names}
    base_edits, lengths = character_errors(selected[baseline])
    rows = []
    for name in names:
        runs = _runs(outcomes, name, chosen[name])
        edits, _ = character_errors(selected[name])
        change, lower, upper = relative_difference(edits, base_edits, lengths)
        rows.append(
            {
                "name": name,
                "learning_rate": chosen[name],
                "seeds": len(runs),
                "cer_mean": float(np.mean([o.cer for o in runs])),
                "cer_sd": float(np.std([o.cer for o in runs], ddof=1)) if len(runs) > 1 else None,
                "wer_mean": float(np.mean([o.wer for o in runs])),
                "wer_sd": float(np.std([o.wer for o in runs], ddof=1)) if len(runs) > 1 else None,
                "dev_error_mean": float(np.mean([o.dev_error for o in runs])),
                "best_dev_steps": [o.dev_step for o in runs],
                "cer_change": change,
                "cer_change_95": [lower, upper],
            }
        )
    return {
        "baseline": baseline,
        "characters": int(lengths.sum()),
        "utterances": len(lengths),
        "rows": rows,
        "runs": [asdict(o) for o in outcomes],
    }


def table(summary: dict) -> str:
    """A Markdown table of the summary."""
    lines = [
        f"| upstream | lr | CER % | WER % | CER against {summary['baseline']} | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    for row in summary["rows"]:
        spread = [f" +- {row[key]:.1f}" if row[key] is not None else "" for key in ("cer_sd", "wer_sd")]
        low, high = row["cer_change_95"]
        lines.append(
            f"| {row['name']} | {row['learning_rate']:g} | {row['cer_mean']:.1f}{spread[0]} | {row['wer_mean']:.1f}{spread[1]} "
            f"| {100 * row['cer_change']:+.1f} % | {100 * low:+.1f} to {100 * high:+.1f} % |"
        )
    return "\n".join(lines)
