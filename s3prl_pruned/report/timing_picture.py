"""The benchmark's figure, from its JSON document alone: speed-up against parameters."""

from matplotlib.figure import Figure

from s3prl_pruned.report.figures import BLUE, GREEN, ORANGE, SKY, VERMILLION

_STYLES = [(BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), (ORANGE, "D"), (SKY, "v"), ("black", "x")]


def speed_up_against_parameters(data: dict) -> Figure:
    """A column of points per model, one point per workload; bars are interquartile ranges of the pairs' ratios."""
    rows = [row for row in data["results"] if row["params"]]
    workloads = list(dict.fromkeys(_workload(row) for row in rows))
    places = _places(rows)
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    for i, workload in enumerate(workloads):
        colour, marker = _STYLES[i % len(_STYLES)]
        chosen = [row for row in rows if _workload(row) == workload]
        axes.errorbar(
            [places[row["name"]] for row in chosen],
            [row["ratio"] for row in chosen],
            [row["ratio_spread"] / 2 for row in chosen],
            fmt=marker,
            color=colour,
            label=workload,
            capsize=3,
            markersize=6,
            alpha=0.85,
        )
    for name, place in places.items():
        highest = max(row["ratio"] + row["ratio_spread"] / 2 for row in rows if row["name"] == name)
        axes.annotate(
            name,
            (place, highest),
            (0, 6),
            textcoords="offset points",
            rotation=90,
            fontsize=8,
            ha="center",
            va="bottom",
        )
    axes.axhline(1, color="black", linestyle="--", linewidth=1)
    axes.set(
        xlabel="parameters (millions); models of similar size are side by side",
        ylabel=f"speed-up over {data['baseline']}",
    )
    axes.set_xlim(0, 1.2 * max(places.values()))
    axes.set_ylim(0, 1.5 * max(row["ratio"] for row in rows))
    random = "random weights, " * any(row["weights"].startswith("random") for row in rows)
    threads = f", {data['threads']} thread{'s' * (data['threads'] != 1)}" if data["device"] == "cpu" else ""
    axes.set_title(f"Speed-up against size ({random}{data['dtype']}, {data['device']}{threads})", fontsize=11)
    axes.legend(fontsize=9, loc="upper right")
    axes.grid(alpha=0.3)
    return figure


def _workload(row: dict) -> str:
    return (
        row["workload"]
        + f", {row['arrangement']}" * (row["arrangement"] in ("padded", "unpadded"))
        + ", TF32" * row["tf32"]
    )


def _places(rows: list[dict]) -> dict[str, float]:
    """The position of each model's column in millions of parameters; models within 5 % are placed side by side."""
    sizes = {row["name"]: row["params"] / 1e6 for row in rows}
    step = 0.03 * max(sizes.values())
    places: dict[str, float] = {}
    cluster: list[str] = []
    for name in sorted(sizes, key=lambda name: sizes[name]):
        if cluster and sizes[name] > 1.05 * sizes[cluster[0]]:
            cluster = []
        cluster.append(name)
        middle = sum(sizes[n] for n in cluster) / len(cluster)
        places |= {n: middle + (i - (len(cluster) - 1) / 2) * step for i, n in enumerate(cluster)}
    return places
