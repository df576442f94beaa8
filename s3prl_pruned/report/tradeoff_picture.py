"""The pictures of the trade-off document: each quality against what the models cost."""

from matplotlib.figure import Figure

from s3prl_pruned.report.figures import BLUE, GREEN, ORANGE, SKY, VERMILLION

COST_TITLES = {
    "parameters": "parameters (millions)",
    "nonzero_parameters": "parameters not zero (millions)",
    "macs": "MACs (G)",
    "seconds": "time (ms)",
}
COST_SCALES = {"parameters": 1e-6, "nonzero_parameters": 1e-6, "macs": 1e-9, "seconds": 1e3}
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
    shown = [cost for cost in COST_TITLES if is_shown({"entries": models}, cost)]
    methods = list(dict.fromkeys(model["method"] for model in models))
    figure = Figure(figsize=(4.2 * len(shown), 4.8), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, cost in zip(panels, shown, strict=True):
        for number, method in enumerate(methods):
            own = sorted(
                (model for model in models if model["method"] == method and model[cost] is not None),
                key=lambda model: model[cost],
            )
            colour, marker = _STYLES[number % len(_STYLES)]
            axes.plot(
                [model[cost] * COST_SCALES[cost] for model in own],
                [model["qualities"][name]["value"] for model in own],
                color=colour, marker=marker, linestyle=":", linewidth=1, markersize=7, label=method,
            )  # fmt: skip
        for protocol in sorted({model["qualities"][name]["protocol"] for model in models}):
            front = [
                model
                for model in models
                if f"{name}/{cost}" in model["pareto"] and model["qualities"][name]["protocol"] == protocol
            ]
            front.sort(key=lambda model: model[cost])
            places = (
                [model[cost] * COST_SCALES[cost] for model in front],
                [model["qualities"][name]["value"] for model in front],
            )
            axes.plot(
                *places,
                color="black",
                linewidth=1,
                marker="o",
                markersize=13,
                markerfacecolor="none",
                label="Pareto front",
            )
        axes.set(xlabel=COST_TITLES[cost])
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(with_direction(data, name))
    notes = sorted({model["note"].upper() for model in models if model["note"]})
    figure.suptitle(f"{name} against cost" + f" ({', '.join(notes)})" * bool(notes), fontsize=12)
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


def is_shown(data: dict, cost: str) -> bool:
    """Whether a cost says anything: that it was measured, and that some parameters are zero."""
    if cost == "nonzero_parameters":
        return any(model[cost] != model["parameters"] for model in data["entries"])
    return any(model[cost] is not None for model in data["entries"])


def with_direction(data: dict, name: str) -> str:
    """A quality's title: its unit, and which way it is better."""
    found = next(model["qualities"][name] for model in data["entries"] if name in model["qualities"])
    unit = "" if "score" in name else " %"
    return f"{name}{unit}, {'higher' if found['better'] == 'up' else 'lower'} is better"
