"""The pictures of the trade-off document: each quality against what the models cost."""

from matplotlib.figure import Figure

from s3prl_pruned.report.figures import BLUE, GREEN, ORANGE, SKY, VERMILLION
from s3prl_pruned.report.tradeoff_columns import costs_shown, is_on_front, quality_column

_STYLES = [
    (BLUE, "o"),
    (VERMILLION, "s"),
    (GREEN, "^"),
    (ORANGE, "D"),
    (SKY, "v"),
    ("#CC79A7", "P"),
    ("#000000", "X"),
    ("#888888", "*"),
    ("#8C510A", "p"),
]


def quality_against_costs(data: dict, name: str) -> Figure:
    """One quality over each cost, a panel each; a colour per method, rings and a line on the Pareto front."""
    models = [model for model in data["entries"] if name in model["qualities"]]
    quality, shown = quality_column(data, name), costs_shown(models)
    methods = list(dict.fromkeys(model["method"] for model in models))
    figure = Figure(figsize=(4.2 * len(shown), 4.8), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, cost in zip(panels, shown, strict=True):
        for number, method in enumerate(methods):
            own = sorted(
                (model for model in models if model["method"] == method and cost.value(model) is not None),
                key=lambda model: cost.value(model) or 0,
            )
            colour, marker = _STYLES[number % len(_STYLES)]
            axes.plot(
                [cost.value(model) for model in own], [quality.value(model) for model in own],
                color=colour, marker=marker, linestyle=":", linewidth=1, markersize=7, label=method,
            )  # fmt: skip
        for protocol in sorted({model["qualities"][name]["protocol"] for model in models}):
            front = [
                model
                for model in models
                if is_on_front(model, name, cost.key) and model["qualities"][name]["protocol"] == protocol
            ]
            front.sort(key=lambda model: cost.value(model) or 0)
            axes.plot(
                [cost.value(model) for model in front],
                [quality.value(model) for model in front],
                color="black",
                linewidth=1,
                marker="o",
                markersize=13,
                markerfacecolor="none",
                label="Pareto front",
            )
        axes.set(xlabel=cost.header)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(quality.header)
    notes = sorted({model["note"].upper() for model in models if model["note"]})
    figure.suptitle(f"{quality.title} against cost" + f" ({', '.join(notes)})" * bool(notes), fontsize=12)
    handles = dict(zip(*panels[0].get_legend_handles_labels()[::-1], strict=True))
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(4, len(handles)),
        fontsize=9,
        frameon=False,
    )
    return figure
