"""Is one upstream better than another on the embedded ASR? Grid, seeds, and a paired bootstrap.

Each upstream is trained by `run_downstream.py` with every learning rate and the first seed; the rate with its lowest
dev error is trained with the other seeds too, and their test errors are compared. Intervals are percentiles of a
bootstrap that resamples test utterances (the same for both upstreams) and seeds.
"""

import itertools
import re
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

import editdistance
import numpy as np

from s3prl_pruned.config import UserError
from s3prl_pruned.plan.calls import downstream_command
from s3prl_pruned.plan.devices import find_devices
from s3prl_pruned.plan.jobs import Job
from s3prl_pruned.plan.models import ComparedModel
from s3prl_pruned.plan.run import run
from s3prl_pruned.superb.results.arks import read_hypotheses
from s3prl_pruned.superb.results.result import RESULT_FILE, read_result
from s3prl_pruned.tables import Column, Table

REPLICATES = 10_000
TEST_SPLIT = "test-clean"


@dataclass(frozen=True)
class Trial:
    """One training and evaluation."""

    model: ComparedModel
    learning_rate: float
    seed: int
    folder: Path

    def job(self, steps: int) -> Job:
        """The call that makes it."""
        # Evaluated every 100 steps, so that "dev stopped improving" can be seen.
        override = (
            f"config.optimizer.lr={self.learning_rate},,config.runner.total_steps={steps},,config.runner.eval_step=100"
        )
        return Job(
            name=str(self.folder.parent),
            command=downstream_command(self.model, "asr", self.folder, seed=self.seed, override=override),
            log=self.folder.parent / "command.log",
            done=self.folder / RESULT_FILE,
        )


@dataclass
class Outcome:
    """What one trial gave; error rates in percent."""

    model: str
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

    def to_dict(self) -> dict:
        """JSON data, under the keys that such files have had from the start."""
        data = asdict(self)
        return {"candidate": data.pop("model"), **data}


def compare(
    models: list[ComparedModel],
    learning_rates: list[float],
    seeds: list[int],
    root: Path,
    *,
    steps: int,
    parallel: int,
    baseline: str,
) -> dict:
    """Train what is not trained yet, and summarise.

    Args:
        models: to be compared.
        learning_rates: all are tried with the first seed.
        seeds: of the task; the others go with the chosen rate only.
        root: finished trials stand here, and are kept.
        steps: of each training.
        parallel: trials at a time.
        baseline: name of the model that the others' errors are compared with.

    Raises:
        UserError: a trial failed; its log is named. The others are finished first.
    """
    grid = plan(models, learning_rates, seeds[:1], root)
    run_trials(grid, steps=steps, parallel=parallel)
    found = [outcome(trial) for trial in grid]
    chosen = {model.name: chosen_rate(found, model.name) for model in models}
    repeats = [trial for model in models for trial in plan([model], [chosen[model.name]], seeds[1:], root)]
    run_trials(repeats, steps=steps, parallel=parallel)
    return summarise(grid + repeats, chosen, baseline)


def plan(models: list[ComparedModel], learning_rates: list[float], seeds: list[int], root: Path) -> list[Trial]:
    """A trial for each combination."""
    return [
        Trial(model, rate, seed, root / model.name / f"lr{rate:g}-seed{seed}" / "asr")
        for seed, model, rate in itertools.product(seeds, models, learning_rates)
    ]


def run_trials(trials: list[Trial], *, steps: int, parallel: int) -> None:
    """Run what is not finished yet, `parallel` at a time, one thread each.

    Raises:
        UserError: a trial failed; its log is named. The others are finished first.
    """
    jobs = [trial.job(steps) for trial in trials]
    failed = run(jobs, parallel=parallel, devices=find_devices()).failures  # in the order in which they ended
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
        model=trial.model.name,
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


def chosen_rate(outcomes: list[Outcome], model: str) -> float:
    """The learning rate with the lowest dev error, averaged over the seeds that are given."""
    rates = {o.learning_rate for o in outcomes if o.model == model}
    return min(rates, key=lambda rate: np.mean([o.dev_error for o in _runs(outcomes, model, rate)]))


def _runs(outcomes: list[Outcome], model: str, rate: float) -> list[Outcome]:
    return [o for o in outcomes if o.model == model and o.learning_rate == rate]


def character_errors(trials: list[Trial]) -> tuple[np.ndarray, np.ndarray]:
    """Edits (seeds, utterances) and reference lengths (utterances,) in characters, utterances sorted by id."""
    edits, lengths = [], None
    for trial in trials:
        hypotheses, references = read_hypotheses(trial.folder, f"{TEST_SPLIT}-noLM")
        keys = sorted(references)
        edits.append([editdistance.eval(hypotheses[key], references[key]) for key in keys])
        lengths = np.array([len(references[key]) for key in keys])
    return np.array(edits), lengths


def relative_difference(
    edits: np.ndarray, baseline: np.ndarray, lengths: np.ndarray, *, seed: int = 0
) -> tuple[float, float, float]:
    """Relative change of the CER against a baseline, and its 95 % bootstrap interval.

    Args:
        edits: (seeds, utterances) of one upstream.
        baseline: (seeds, utterances) of the other, on the same utterances.
        lengths: (utterances,) reference characters.
        seed: of the resampling.

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
    """JSON data: every outcome, and per model mean, spread (at the `chosen` rate) and change against `baseline`."""
    outcomes = [outcome(trial) for trial in trials]
    names = list(chosen)
    selected = {
        name: [trial for trial in trials if (trial.model.name, trial.learning_rate) == (name, chosen[name])]
        for name in names
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
        "runs": [o.to_dict() for o in outcomes],
    }


def table(summary: dict) -> str:
    """A Markdown table of the summary."""
    columns = [
        Column("name", "upstream"),
        Column("learning_rate", "lr", show="{:g}"),
        "CER %",
        "WER %",
        f"CER against {summary['baseline']}, 95 % interval",
        Column("params", "parameters", show=lambda params: f"{params / 1e6:.2f} M", absent=""),
        Column("macs", "MACs, 5 s", show=lambda macs: f"{macs / 1e9:.3f} G", absent=""),
        Column("speed", show="{:.2f}", absent=""),
    ]
    rows = []
    for row in summary["rows"]:
        rates = [
            f"{row[f'{rate}_mean']:.1f}" + ("" if row[f"{rate}_sd"] is None else f" +- {row[f'{rate}_sd']:.1f}")
            for rate in ("cer", "wer")
        ]
        change, low, high = (100 * share for share in (row["cer_change"], *row["cer_change_95"]))
        cost = summary.get("costs", {}).get(row["name"], {})
        rows.append(
            [row["name"], row["learning_rate"], *rates, f"{change:+.1f} %, {low:+.1f} to {high:+.1f} %"]
            + [cost.get(key) for key in ("params", "macs", "speed")]
        )
    return Table(columns, rows).markdown()
