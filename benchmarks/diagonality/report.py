"""Heads' diagonality (`measure.py`) as a table and a figure, from its JSON document alone."""

import itertools
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from s3prl_pruned.report.files import ReportFiles, png
from s3prl_pruned.tables import Column, Table

FILES = ReportFiles(
    name="diagonality",
    command="python -m benchmarks.diagonality",
    keys=("num_layers", "num_heads", "speech"),
    rows="models",
    row_key="heads",
)
UNIFORM = -1 / 3
"""The diagonality of uniform attention (for many frames): the bottom of the colour scale."""


refuse_existing = FILES.refuse_existing


def write(data: dict, folder: Path) -> list[Path]:
    """Write `diagonality.json`, `.csv`, `.md` and `.png` into a folder.

    Raises:
        UserError: if one already exists, or cannot be written.
    """
    return FILES.write(
        data, folder, texts={"csv": as_csv(data), "md": markdown(data)}, pictures={"": png(picture(data))}
    )


def markdown(data: dict) -> str:
    """A row per head of the dense encoder, a column per model; then the fate of the diagonal heads."""
    names = [model["name"] + (f" ({model['note'].upper()})" if model["note"] else "") for model in data["models"]]
    by_head = [{(head["layer"], head["head"]): head for head in model["heads"]} for model in data["models"]]
    shape = (data["num_layers"], data["num_heads"])
    table = Table(
        ["layer", "head", *(Column(name, show=_cell) for name in names)],
        [
            [layer, head, *(heads.get((layer, head)) for heads in by_head)]
            for layer, head in itertools.product(*(range(1, count + 1) for count in shape))
        ],
    )
    lines = [
        table.markdown(),
        "",
        "Diagonality (Yang et al. 2020): minus the mean attention distance, as a share of the utterance; 0 is the "
        "diagonal, -0.333 uniform attention. In brackets the distance in frames of 20 ms. `-`: the head was removed. "
        f"{data['speech']}.",
    ]
    return "\n".join([*lines, *(f"\n{line}" for line in fates(data)), ""])


def fates(data: dict) -> list[str]:
    """For each later model: the mean diagonality, before pruning, of the kept and of the removed heads."""
    lines, first = [], data["models"][0]["name"]
    for model in data["models"][1:]:
        fate = model["fate"]
        stayed, went, now = (_number(fate[key]) for key in ("kept_before", "removed_before", "kept_after"))
        lines.append(
            f"{model['name']}: the {fate['kept']} kept heads had {stayed} in {first} and have {now} now; "
            f"the {fate['removed']} removed heads had {went}."
        )
    return lines


def as_csv(data: dict) -> str:
    """A CSV line per model and head."""
    rows = [
        [model["name"], head["layer"], head["head"], round(head["diagonality"], 6), round(head["distance"], 4)]
        for model in data["models"]
        for head in model["heads"]
    ]
    return Table(["model", "layer", "head", "diagonality", "distance_frames"], rows).csv()


def picture(data: dict) -> Figure:
    """Heads by layers, a panel per model; white crosses are removed heads."""
    models, shape = data["models"], (data["num_layers"], data["num_heads"])
    figure = Figure(
        figsize=(1.6 + max(2.6, 0.45 * shape[1]) * len(models), 1.8 + 0.42 * shape[0]), layout="constrained"
    )
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        values = np.full(shape, np.nan)
        for head in model["heads"]:
            values[head["layer"] - 1, head["head"] - 1] = head["diagonality"]
        image = axes.imshow(values, cmap="viridis", vmin=UNIFORM, vmax=0, aspect="auto", origin="lower")
        axes.set_facecolor("#DDDDDD")
        for layer, head in zip(*np.nonzero(np.isnan(values)), strict=True):
            axes.text(head, layer, "x", ha="center", va="center", color="white")
        axes.set_xticks(range(shape[1]), range(1, shape[1] + 1), fontsize=8)
        axes.set_xlabel("head")
        title = Path(model["name"]).parent.name if Path(model["name"]).name == "export" else Path(model["name"]).name
        axes.set_title(title + (f"\n({model['note'].upper()})" if model["note"] else ""), fontsize=10)
    panels[0].set_yticks(range(shape[0]), range(1, shape[0] + 1))
    panels[0].set_ylabel("layer")
    figure.colorbar(image, ax=panels, label="diagonality (0: diagonal, -1/3: uniform)")
    return figure


def _cell(head: dict) -> str:
    return f"{head['diagonality']:.3f} ({head['distance']:.1f})"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
