"""Whisper's encoder at several sparsities by several methods, under Whisper's own decoder: the plan and its table.

YAML -> ZeroShot -> jobs: run_pretrain.py per row, target and seed, then decoding per test set
     -> run here or written as job scripts -> table and figure of the error rates
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.experiments.experiment import ExperimentRow, pruning_jobs, stages_of
from s3prl_pruned.config import UserError, from_dict, load_yaml
from s3prl_pruned.plan.jobs import Job
from s3prl_pruned.report.figures import BLUE, GREEN, ORANGE, VERMILLION
from s3prl_pruned.tables import Column, Table

SETTINGS = Path(__file__).with_name("zero_shot.yaml")
WHOLE = "whole"
"""The checkpoint's own encoder."""


@dataclass(kw_only=True)
class ZeroShot:
    """The content of `zero_shot.yaml`."""

    title: str
    rows: list[ExperimentRow]
    """The methods."""
    targets: list[float]
    """Shares of the encoder's prunable weights that are removed."""
    seeds: list[int]
    steps: int
    """Optimiser steps of each pruning run, all its stages together."""
    override: str = ""
    """`-o` of all pruning runs."""
    second_stage_share: float = 1 / 3
    """Share of the steps for the second stage, if a row has one."""

    def validate(self) -> None:
        """Raise UserError where there is nothing to do, or a row is not for a pruning run."""
        if not (self.rows and self.targets and self.seeds) or self.steps < 1:
            raise UserError("`rows`, `targets`, `seeds` and `steps` must not be empty.")
        if strange := [row.name for row in self.rows if row.recipe is None]:
            raise UserError(f"`rows` must have a recipe each, but {strange} have none.")


def load_settings(path: Path) -> ZeroShot:
    """Read a file like `zero_shot.yaml`.

    Raises:
        UserError: it cannot be read, or is not such a file.
    """
    return from_dict(ZeroShot, load_yaml(path), str(path))


@dataclass(frozen=True, kw_only=True)
class PlannedZeroShot:
    """An experiment in a folder."""

    settings: ZeroShot
    checkpoint: Path
    """OpenAI's file: teacher and decoder."""
    corpus: Path
    """Speech to train on, with a second test set: made by `benchmarks.whisper.corpus`."""
    folder: Path

    def jobs(self) -> list[Job]:
        """The whole encoder first, then by target from the lowest, pruning and decoding."""
        jobs = self._decoding(WHOLE, str(self.checkpoint), after=())
        for seed in self.settings.seeds:
            for target in sorted(self.settings.targets):
                for row in self.settings.rows:
                    jobs += self._pruned(row, target, seed)
        return jobs

    def decoded(self, name: str, test: str) -> Path:
        """File of the results of a model on a test set, `embedded` or `corpus`."""
        return self.folder / "decoded" / f"{name}.{test}.json"

    def name(self, row: ExperimentRow, target: float, seed: int) -> str:
        """Name of a run."""
        return f"{row.name}-{target:g}-seed{seed}"

    def _pruned(self, row: ExperimentRow, target: float, seed: int) -> list[Job]:
        settings, name = self.settings, self.name(row, target, seed)
        override = ",,".join(filter(None, [row.override, f"sparsity.target_sparsity={target:g}"]))
        stages = stages_of(
            replace(row, override=override),
            self.folder,
            steps=settings.steps,
            second_stage_share=settings.second_stage_share,
            override=settings.override,
        )
        options = ("--teacher", str(self.checkpoint), "--corpus", str(self.corpus))
        jobs = pruning_jobs(name, stages, seed, upstream="whisper_pruned_distill", options=options)
        assert jobs[-1].done is not None
        return jobs + self._decoding(name, str(jobs[-1].done.parent), after=(jobs[-1].name,))

    def _decoding(self, name: str, model: str, *, after: tuple[str, ...]) -> list[Job]:
        command = (sys.executable, "-m", "benchmarks.whisper.decode", str(self.checkpoint), model)
        jobs = []
        for test, options in (("embedded", ()), ("corpus", ("--corpus", str(self.corpus)))):
            done = self.decoded(name, test)
            jobs.append(
                Job(
                    name=f"decode/{name}.{test}",
                    command=(*command, *options, "--json", str(done)),
                    log=done.with_suffix(".log"),
                    done=done,
                    after=after,
                    uses_device=False,
                )
            )
        return jobs


def collect(planned: PlannedZeroShot) -> dict[str, Any]:
    """The results that are finished: a row for each model, with the rates of both test sets, without texts.

    Raises:
        UserError: nothing is finished.
    """
    settings = planned.settings
    names = [(WHOLE, 0.0, None, WHOLE)] + [
        (row.name, target, seed, planned.name(row, target, seed))
        for row in settings.rows
        for target in settings.targets
        for seed in settings.seeds
    ]
    rows = []
    for method, target, seed, name in names:
        tests = {test: planned.decoded(name, test) for test in ("embedded", "corpus")}
        if not all(path.is_file() for path in tests.values()):
            continue
        found = {test: json.loads(path.read_text()) for test, path in tests.items()}
        (sizes,) = found["embedded"]["results"]
        rates = {
            test: {"utterances": data["utterances"], **{rate: data["results"][0][rate] for rate in ("wer", "cer")}}
            for test, data in found.items()
        }
        kept = {key: sizes[key] for key in ("sha256", "sparsity", "parameters")}
        rows.append({"method": method, "target": target, "seed": seed, **kept, **rates})
    if not rows:
        raise UserError(f"{planned.folder}: no model is decoded yet.")
    recipes = {row.name: [row.recipe, row.second_stage, row.override] for row in settings.rows}
    return {"title": settings.title, "steps": settings.steps, "recipes": recipes, "rows": rows}


def as_markdown(data: dict[str, Any]) -> str:
    """A line per method and target: means over seeds; intervals (95 %, over utterances) where there is one seed."""
    columns = [Column(name, align="right") for name in ("sparsity", "parameters")]
    rates = [Column(f"{rate}, {test}", align="right") for test in ("embedded", "UQM") for rate in ("WER", "CER")]
    lines = [
        [
            group[0]["method"],
            f"{100 * mean(row['sparsity'] for row in group):.1f} %",
            f"{mean(row['parameters'] for row in group) / 1e6:.2f} M",
            *(_shown([row[test][rate] for row in group]) for test in ("embedded", "corpus") for rate in ("wer", "cer")),
        ]
        for group in groups(data["rows"])
    ]
    return Table(["method", *columns, *rates], lines).markdown()


def groups(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows of one method and target together, in their order."""
    found: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["method"], row["target"]), []).append(row)
    return list(found.values())


def _shown(rates: list[list[float]]) -> str:
    """A value with its interval, or the mean over seeds with their range."""
    values = [value for value, *_ in rates]
    low, high = rates[0][1:] if len(rates) == 1 else (min(values), max(values))
    return f"{mean(values):.1f} ({low:.1f}-{high:.1f})"


def draw(data: dict[str, Any], path: Path) -> Path:
    """WER against realised sparsity, a panel for each test set and a line for each method; dashed: the whole encoder.

    Args:
        data: from `collect`.
        path: the figure's file.
    """
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    methods = dict.fromkeys(row["method"] for row in data["rows"] if row["method"] != WHOLE)
    for axes, test, title in zip(panels, ("embedded", "corpus"), ("embedded English test set", "UQM"), strict=True):
        for method, color in zip(methods, (VERMILLION, BLUE, GREEN, ORANGE), strict=False):
            points = [
                (100 * mean(row["sparsity"] for row in group), mean(row[test]["wer"][0] for row in group))
                for group in groups(data["rows"])
                if group[0]["method"] == method
            ]
            axes.plot(*zip(*points, strict=True), "o-", color=color, label=method)
        for row in data["rows"]:
            if row["method"] == WHOLE:
                axes.axhline(row[test]["wer"][0], linestyle="--", color="grey", label="whole encoder")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("sparsity of the encoder's layers (%)")
        axes.set_ylim(0, 110)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("WER (%)")
    panels[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
