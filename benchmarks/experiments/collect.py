"""An experiment's results, read from its runs as plain data: metrics of every seed, sizes, mini-scores, speeds."""

from dataclasses import replace
from pathlib import Path
from statistics import mean, variance

from benchmarks.experiments.experiment import ExperimentRow, Planned
from s3prl_pruned.config import UserError, apply_overrides, from_dict
from s3prl_pruned.formats.folder import load_encoder
from s3prl_pruned.models.accelerate import accelerate
from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.plan.suite import runs
from s3prl_pruned.pretrain.distill.config import ModelConfig
from s3prl_pruned.pretrain.recipes import with_overrides
from s3prl_pruned.sparsity.counts import macs, realised_sparsity
from s3prl_pruned.superb.results.result import RESULT_FILE, Result, read_result
from s3prl_pruned.superb.score.mini_score import counted_tasks, mini_scores
from s3prl_pruned.superb.score.scored_models import ScoredModel
from s3prl_pruned.timing.clock import TimingSetting, compare
from s3prl_pruned.timing.document import document
from s3prl_pruned.timing.exports import dense_shape

_SECONDS = 5


def collect(planned: Planned) -> dict:
    """Read the results that are finished.

    Returns:
        Plain data: per row the metrics of each seed in percent, sizes, and mini-scores (of the seeds' mean, and of each
        seed, normalised by the means of the low and the high row). Unfinished results are missing from rows.

    Raises:
        UserError: if nothing is finished, or an export was made with other settings than its row's (`check_settings`).
    """
    experiment = planned.experiment
    for row in filter(lambda row: row.recipe, experiment.rows):
        for export in (planned.export(row, seed) for seed in experiment.seeds):
            if export.is_dir():
                check_settings(planned, row, export)
    found: dict[str, dict[int, dict[str, Result]]] = {row.name: {} for row in experiment.rows}
    for task_run in runs(planned.suite()):
        path = task_run.folder / RESULT_FILE
        if path.is_file():
            found[task_run.model.name].setdefault(task_run.seed, {})[task_run.task.name] = read_result(path)
    if not any(found.values()):
        raise UserError(f"{planned.folder}: no task is finished.")
    scores, left_out = _scores(planned, found)
    return {
        "title": experiment.title,
        "claim": experiment.claim,
        "protocol": experiment.protocol,
        "steps": experiment.steps,
        "mini_score": {"low": experiment.low, "high": experiment.high, "left_out": left_out},
        "rows": [
            {
                "name": row.name,
                "recipe": row.recipe,
                "override": row.override,
                "second_stage": row.second_stage,
                "upstream": row.upstream,
                **_sizes(planned, row, found[row.name]),
                "seeds": sorted(found[row.name]),
                "metrics": _metrics(found[row.name]),
                "mini_score": scores.get(row.name),
            }
            for row in experiment.rows
        ],
    }


def check_settings(planned: Planned, row: ExperimentRow, export: Path) -> None:
    """Raise UserError if an export was made with other settings than its row's: experiments share runs by row name."""
    stages = [load_encoder(export)[1]]
    while "first_stage" in stages[0]:
        stages.insert(0, stages[0]["first_stage"])
    wanted = [override.split(",,") for _, _, override in planned.stages(row)]
    if len(stages) != len(wanted):
        raise UserError(
            f"{export}: was made in {len(stages)} stages, but row {row.name!r} has {len(wanted)}. Name another folder "
            "(--output)."
        )
    for made, overrides in zip((stage["recipe"] for stage in stages), wanted, strict=True):
        for item in overrides:
            of_model = item.split(".")[0] in made["model"]
            change = with_overrides if of_model else apply_overrides
            data = made["model" if of_model else "runner"]
            before, after = (change(data, items) for items in ([], [item]))
            if of_model:  # targets may be in an earlier format
                before, after = (from_dict(ModelConfig, each, str(export)) for each in (before, after))
            if after != before:
                raise UserError(
                    f"{export}: was not made with {item}, which row {row.name!r} asks for. Name another folder "
                    "(--output)."
                )


def _metrics(by_seed: dict[int, dict[str, Result]]) -> dict[str, dict[str, list[float]]]:
    """Values in percent by task and metric, in the order of the seeds."""
    metrics: dict[str, dict[str, list[float]]] = {}
    for seed in sorted(by_seed):
        for task, result in by_seed[seed].items():
            for value in result.metrics:
                metrics.setdefault(task, {}).setdefault(value.name, []).append(value.percent)
    return metrics


def _sizes(planned: Planned, row: ExperimentRow, by_seed: dict[int, dict[str, Result]]) -> dict[str, float]:
    """Mean sizes over the seeds' exports; for an upstream that is not pruned here, as in its results."""
    if row.upstream:
        reported = [result.upstream.num_parameters for by_task in by_seed.values() for result in by_task.values()]
        return {"params": float(reported[0])} if reported and reported[0] else {}
    exports = [planned.export(row, seed) for seed in planned.experiment.seeds]
    encoders = [load_encoder(export)[0] for export in exports if export.is_dir()]
    if not encoders:
        return {}
    return {
        "params": mean(encoder.num_parameters() for encoder in encoders),
        "macs": mean(sum(macs(e.config, e.spec, _SECONDS * 16_000).values()) for e in encoders),
        "sparsity": mean(realised_sparsity(encoder.config, encoder.spec) for encoder in encoders),
    }


def _scores(planned: Planned, found: dict[str, dict[int, dict[str, Result]]]) -> tuple[dict, list[str]]:
    experiment = planned.experiment
    means = {name: _mean_row(name, by_seed) for name, by_seed in found.items()}
    if not (means[experiment.low].results and means[experiment.high].results):
        return {}, [f"{experiment.low} or {experiment.high} is not finished"]
    spreads = _spreads(_metrics(found[experiment.low]), _metrics(found[experiment.high]))
    counted, left_out = counted_tasks(means[experiment.low], means[experiment.high], spreads)
    if not counted:
        return {}, left_out
    scored, _ = mini_scores(list(means.values()), experiment.low, experiment.high, spreads=spreads)
    scores = {}
    for score in scored:
        ends = [means[name] for name in (experiment.low, experiment.high)]
        seeds = [
            ScoredModel(name=f"{score.name} seed {seed}", sha256=None, results=by_task, scores={})
            for seed, by_task in found[score.name].items()
        ]
        each = mini_scores([*ends, *seeds], experiment.low, experiment.high, spreads=spreads)[0][2:]
        scores[score.name] = {"score": score.total, "terms": score.terms, "seeds": [one.total for one in each]}
    return scores, left_out


def _spreads(*rows: dict[str, dict[str, list[float]]]) -> dict[tuple[str, str], float]:
    """Pooled standard deviation over seeds, for each task and metric with several seeds in every row."""
    names = [(task, name) for task, metrics in rows[0].items() for name in metrics]
    values = {(task, name): [row.get(task, {}).get(name, []) for row in rows] for task, name in names}
    return {
        key: mean(variance(seeds) for seeds in of_rows) ** 0.5
        for key, of_rows in values.items()
        if min(map(len, of_rows)) > 1
    }


def _mean_row(name: str, by_seed: dict[int, dict[str, Result]]) -> ScoredModel:
    """The seeds' mean of every task that all seeds have."""
    tasks = set.intersection(*(set(by_task) for by_task in by_seed.values())) if by_seed else set()
    results = {}
    for task in tasks:
        every = [by_task[task] for by_task in by_seed.values()]
        metrics = [
            replace(value, value=mean(result.values()[value.name].percent for result in every), unit="percent")
            for value in every[0].metrics
        ]
        results[task] = replace(every[0], metrics=metrics)
    return ScoredModel(name=name, sha256=None, results=results, scores={})


def add_speeds(planned: Planned, data: dict, *, repeats: int, threads: int = 1) -> None:
    """Time all exports beside the dense encoder, in one interleaved run on 5 s of audio.

    Args:
        planned: the experiment.
        data: from `collect`; gets `timing`, and its rows `speed`, the dense encoder's time over theirs for each seed.
        repeats: timed runs of each model.
        threads: torch's threads.
    """
    encoders = {
        (row.name, seed): load_encoder(planned.export(row, seed), for_inference=True)[0]
        for row in planned.experiment.rows if row.recipe
        for seed in planned.experiment.seeds if planned.export(row, seed).is_dir()
    }  # fmt: skip
    if not encoders:
        return
    shapes = {dense_shape(encoder.config) for encoder in encoders.values()}
    if len(shapes) > 1:
        raise UserError(
            f"all exports must come from one dense encoder to be timed against it, but they come from {len(shapes)}."
        )
    models = {
        "dense": accelerate(SpeechEncoder(shapes.pop()).eval()),
        **{f"{name}-seed{seed}": encoder for (name, seed), encoder in encoders.items()},
    }
    setting = TimingSetting(baseline="dense", threads=threads, repeats=repeats)
    results = compare(models, setting, seconds=_SECONDS)
    ratios = {key: result.ratio for key, result in zip(encoders, results[1:], strict=True)}
    for row in data["rows"]:
        row["speed"] = [ratio for (name, _), ratio in ratios.items() if name == row["name"]]
    data["timing"] = document(setting, results)
