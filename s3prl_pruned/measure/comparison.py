"""Is one upstream better than another on the embedded ASR? Grid, seeds, and a paired bootstrap.

Each upstream is trained by `run_downstream.py` with every learning rate and the first seed; the rate with its lowest dev
error is trained with the other seeds too, and their test errors are compared. Intervals are percentiles of
a bootstrap that resamples test utterances (the same for both upstreams) and seeds.
"""

import itertools
import re
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import editdistance
import numpy as np

from s3prl_pruned.config import UserError
from s3prl_pruned.measure.plan import Job
from s3prl_pruned.measure.run_plan import run
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

    @classmethod
    def parse(cls, text: str) -> "Candidate":
        """`NAME[=UPSTREAM[:CKPT]]`; the upstream is called as the name says where it is not given."""
        name, _, rest = text.partition("=")
        upstream, _, checkpoint = (rest or name).partition(":")
        return cls(name, upstream, checkpoint or None)

    def options(self, seed: int) -> list[str]:
        """What names the upstream on `run_downstream.py`'s command line."""
        checkpoint = ["-k", self.checkpoint.replace("{seed}", str(seed))] if self.checkpoint else []
        return ["-u", self.upstream, *checkpoint]


@dataclass(frozen=True)
class Trial:
    """One training and evaluation."""

    candidate: Candidate
    learning_rate: float
    seed: int
    folder: Path

    def job(self, steps: int) -> Job:
        # Evaluated every 100 steps, so that "dev stopped improving" can be seen.
        override = f"config.optimizer.lr={self.learning_rate},,config.runner.total_steps={steps},,config.runner.eval_step=100"
        command = (
            sys.executable, "run_downstream.py", *self.candidate.options(self.seed), "-d", "asr", "-a",
            "-p", str(self.folder), "--seed", str(self.seed), "-o", override,
        )  # fmt: skip
        return Job(
            name=str(self.folder.parent), command=command, log=self.folder.parent / "command.log", done=self.folder / RESULT_FILE
        )


@dataclass
class Outcome:
    """What one trial gave; error rates in percent."""

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


def compare(
    candidates: list[Candidate], learning_rates: list[float], seeds: list[int], root: Path, *, steps: int, parallel: int, baseline: str
) -> dict:
    """Train what is not trained yet, and summarise.

    Args:
        learning_rates: all are tried with the first seed.
        seeds: of the task; the others go with the chosen rate only.
        root: finished trials stand here, and are kept.
        baseline: name of the candidate that the others' errors are compared with.

    Raises:
        UserError: a trial failed; its log is named. The others are finished first.
    """
    grid = plan(candidates, learning_rates, seeds[:1], root)
    run_trials(grid, steps=steps, parallel=parallel)
    found = [outcome(trial) for trial in grid]
    chosen = {candidate.name: chosen_rate(found, candidate.name) for candidate in candidates}
    repeats = [trial for candidate in candidates for trial in plan([candidate], [chosen[candidate.name]], seeds[1:], root)]
    run_trials(repeats, steps=steps, parallel=parallel)
    return summarise(grid + repeats, chosen, baseline)


def plan(candidates: list[Candidate], learning_rates: list[float], seeds: list[int], root: Path) -> list[Trial]:
    """A trial for each combination."""
    return [
        Trial(candidate, rate, seed, root / candidate.name / f"lr{rate:g}-seed{seed}" / "asr")
        for seed, candidate, rate in itertools.product(seeds, candidates, learning_rates)
    ]


def run_trials(trials: list[Trial], *, steps: int, parallel: int) -> None:
    """Run what is not finished yet, `parallel` at a time, one thread each.

    Raises:
        UserError: a trial failed; its log is named. The others are finished first.
    """
    jobs = [trial.job(steps) for trial in trials]
    failed = run(jobs, parallel=parallel).failures  # in the order in which they ended
    failures = [failed[job.name] for job in jobs if job.name in failed]
    if failures:
        first = failures[0]
        raise UserError(
            f"{len(failures)} of {len(trials)} runs failed; the first: {shlex.join(first.job.command)} "
            f"({first.reason}; see {first.job.log})"
        )


def outcome(trial: Trial) -> Outcome:
    """Read a finished trial."""
    result = read_result(trial.folder / RESULT_FILE)
    rates = {value.name: value.percent for value in result.metrics}
    steps = dev_curve((trial.folder / "stdout.log").read_text(), interval=100)
    step, error = min(steps.items(), key=lambda item: item[1])
    return Outcome(
        candidate=trial.candidate.name,
        learning_rate=trial.learning_rate,
        seed=trial.seed,
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
    """The learning rate with the lowest dev error, averaged over the seeds that are given."""
    rates = {o.learning_rate for o in outcomes if o.candidate == candidate}
    return min(rates, key=lambda rate: np.mean([o.dev_error for o in _runs(outcomes, candidate, rate)]))


def _runs(outcomes: list[Outcome], candidate: str, rate: float) -> list[Outcome]:
    return [o for o in outcomes if o.candidate == candidate and o.learning_rate == rate]


def character_errors(trials: list[Trial]) -> tuple[np.ndarray, np.ndarray]:
    """Edits (seeds, utterances) and reference lengths (utterances,) in characters, utterances sorted by id."""
    edits, lengths = [], None
    for trial in trials:
        hypotheses, references = read_arks(trial.folder, TEST_SPLIT)
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


def summarise(trials: list[Trial], chosen: dict[str, float], baseline: str) -> dict:
    """JSON data: every outcome, and per candidate mean and spread at the `chosen` rate, and the change against `baseline`."""
    outcomes = [outcome(trial) for trial in trials]
    names = list(chosen)
    selected = {
        name: [trial for trial in trials if (trial.candidate.name, trial.learning_rate) == (name, chosen[name])] for name in names
    }
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
        f"| upstream | lr | CER % | WER % | CER against {summary['baseline']}, 95 % interval | parameters | MACs, 5 s | speed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in summary["rows"]:
        spread = [f" +- {row[key]:.1f}" if row[key] is not None else "" for key in ("cer_sd", "wer_sd")]
        low, high = row["cer_change_95"]
        cost = summary.get("costs", {}).get(row["name"])
        shown = " | | |" if cost is None else f" {cost['params'] / 1e6:.2f} M | {cost['macs'] / 1e9:.3f} G | {cost['speed']:.2f} |"
        lines.append(
            f"| {row['name']} | {row['learning_rate']:g} | {row['cer_mean']:.1f}{spread[0]} | {row['wer_mean']:.1f}{spread[1]} "
            f"| {100 * row['cer_change']:+.1f} %, {100 * low:+.1f} to {100 * high:+.1f} % |{shown}"
        )
    return "\n".join(lines)
