"""Figures of a run, from its JSON files alone (never from a model): Figures 1, 3a and 3b of Wang et al. 2023.

Reads `log.jsonl`, `hard_concrete.json` and `export/config.json` of the run's folder; writes `figures/`.
Colours are Okabe and Ito's, which colour-blind readers can distinguish.
"""

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.formats.folder import CONFIG, read_config
from s3prl_pruned.gates.distribution import FILE as HARD_CONCRETE
from s3prl_pruned.gates.distribution import HardConcreteNumbers
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.pretrain.logging import LOG, read_log
from s3prl_pruned.sparsity.counts import LayerCounts, layer_weights, map_weights, realised_sparsity
from s3prl_pruned.sparsity.quantities import quantity_in
from s3prl_pruned.superb.results.result import read_json

BLUE, ORANGE, GREEN, VERMILLION, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#BBBBBB"
_PRUNED = "#EEEEEE"

# slot -> label, colour, line style. The paper's Figure 3a shows whole sublayers; single dimensions are added.
_SLOTS = {
    "z_ffn": (r"$z_\mathrm{FFN}$ (whole sublayer)", VERMILLION, "-"),
    "z_mha": (r"$z_\mathrm{MHA}$ (whole sublayer)", BLUE, "-"),
    "z_int": (r"$z_\mathrm{int}$ (FFN dims)", ORANGE, ":"),
    "z_qk": (r"$z_\mathrm{qk}$ (query/key dims)", SKY, ":"),
    "z_vo": (r"$z_\mathrm{vo}$ (value/output dims)", GREEN, ":"),
    "z_head": (r"$z_\mathrm{head}$ (whole heads)", GREEN, "-."),
    "attention_weights": ("single weights of attention", GREEN, "--"),
    "ffn_weights": ("single weights of feed-forward", ORANGE, "--"),
    "z_conv": (r"$z_\mathrm{conv}$ (CNN channels)", "black", ":"),
    "z_pos": (r"$z_\mathrm{pos}$ (groups of the positional convolution)", "black", "-."),
}


def draw_run(folder: Path) -> list[Path]:
    """Draw all figures of a finished run into `<folder>/figures/`.

    Returns:
        The PNG files.

    Raises:
        UserError: if one of the run's files is missing, damaged, or lacks a number that a figure needs.
    """
    folder = Path(folder)
    export = read_config(folder / "export" / CONFIG)
    config = from_dict(EncoderConfig, export["encoder"], str(folder / "export" / CONFIG))
    spec = from_dict(CompactSpec, export["spec"], str(folder / "export" / CONFIG))
    note = export["provenance"].get("teacher_note")
    figures = {
        "remaining_parameters": remaining_parameters(config, spec, note),
        "remaining_value_dims": remaining_value_dims(config, spec, note),
    }
    model = (export["provenance"].get("recipe") or {}).get("model", {})
    without_gates = model.get("compress") or model.get("student_export")
    if without_gates:
        figures["rounds"] = rounds(read_log(folder), str(folder / LOG), note)
    elif model.get("self_pinching") or "ctc" not in model:
        figures["mask_averages"] = mask_averages(read_log(folder), str(folder / LOG), note)
    if not (without_gates or model.get("self_pinching") or "ctc" in model):
        figures["hard_concrete"] = hard_concrete(_read_hard_concrete(folder / HARD_CONCRETE))
    (folder / "figures").mkdir(exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / "figures" / f"{name}.png")
        FigureCanvasAgg(figure).print_figure(paths[-1], dpi=150)
    return paths


def mask_averages(lines: list[dict], where: str, note: str | None) -> Figure:
    """Figure 3a: averages of the sampled masks over all layers during training; below, the target that drives them.

    Args:
        lines: lines of `log.jsonl`.
        where: the file's name in messages.
        note: a note such as "random teacher", for the title.
    """
    try:
        steps = [line["step"] for line in lines]
        names = sorted(lines[0]["mask_means"], key=list(_SLOTS).index)
        slots = {name: [float(np.mean(line["mask_means"][name])) for line in lines] for name in names}
        of = quantity_in(lines[0], prefix="target_")
        driven = {kind: [of.scale * line[f"{kind}_{of.name}"] for line in lines] for kind in ("target", "expected")}
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise UserError(f"{where}: every line must hold step, mask_means, target_sparsity and expected_sparsity, "
                        f"but this fails with {error!r}. Is it the log of run_pretrain.py?") from error  # fmt: skip
    figure = Figure(figsize=(7, 6), layout="constrained")
    masks, control = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    for slot, averages in slots.items():
        label, colour, style = _SLOTS[slot]
        masks.plot(steps, averages, style, color=colour, label=label, linewidth=2 if style == "-" else 1.5)
    masks.set(ylabel="average mask over layers", ylim=(-0.03, 1.03))
    masks.set_title(_title("Masks drawn during training", note))
    masks.legend(loc="best", fontsize=9)
    control.plot(steps, driven["target"], "--", color="black", label="target", linewidth=1.5)
    control.plot(steps, driven["expected"], color=BLUE, label="expected under the gates", linewidth=2)
    control.set(xlabel="optimiser step", ylabel=of.axis)
    if not of.is_ratio:
        control.set_ylim(-3, 103)
    control.legend(loc="best", fontsize=9)
    for axes in (masks, control):
        axes.grid(alpha=0.3)
    return figure


def rounds(lines: list[dict], where: str, note: str | None) -> Figure:
    """A run without gates (a basic technique, a second stage): the distillation loss and the sparsity by round.

    Args:
        lines: lines of `log.jsonl`.
        where: the file's name in messages.
        note: a note such as "random teacher", for the title.
    """
    try:
        steps, losses = [line["step"] for line in lines], [line["distill"] for line in lines]
        reached = [100 * line["realised_sparsity"] for line in lines]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{where}: every line must hold step, distill and realised_sparsity, but this fails with {error!r}."
        ) from error
    figure = Figure(figsize=(7, 5), layout="constrained")
    loss, sparsity = figure.subplots(2, 1, sharex=True)
    loss.plot(steps, losses, color=VERMILLION, linewidth=1.5)
    loss.set(ylabel="distillation loss")
    loss.set_title(_title("Loss and sparsity by round", note))
    sparsity.plot(steps, reached, color=BLUE, linewidth=2, drawstyle="steps-post")
    sparsity.set(xlabel="optimiser step", ylabel="sparsity (% of weights)", ylim=(-3, 103))
    for axes in (loss, sparsity):
        axes.grid(alpha=0.3)
    return figure


def remaining_parameters(config: EncoderConfig, spec: CompactSpec, note: str | None) -> Figure:
    """The content of Figure 3b as numbers: remaining weights (without biases) per layer, stacked by kind."""
    dense = CompactSpec.dense(config)
    numbers = np.arange(1, config.num_layers + 1)
    figure = Figure(figsize=(max(7.5, 1.8 + 0.5 * config.num_layers), 4.2), layout="constrained")
    axes = figure.subplots()
    parts = {
        "query/key": (("q_proj", "k_proj"), SKY, None),
        "value/output": (("v_proj", "out_proj"), BLUE, "//"),
        "feed-forward": (("fc1", "fc2"), ORANGE, None),
    }
    bottom = np.zeros(config.num_layers)
    for label, (names, colour, hatch) in parts.items():
        maps = [map_weights(config.embed_dim, LayerCounts.of(layer)) for layer in spec.layers]
        weights = np.array([sum(int(weights[name]) for name in names) / 1e6 for weights in maps])
        axes.bar(
            numbers,
            weights,
            0.7,
            bottom=bottom,
            color=colour,
            label=label,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.5,
        )
        bottom = bottom + weights
    whole = int(layer_weights(config.embed_dim, LayerCounts.of(dense.layers[0]))) / 1e6
    axes.axhline(whole, color="black", linestyle="--", linewidth=1.2, label="dense layer")
    for number, height in enumerate(bottom.tolist(), start=1):
        axes.text(number, height + 0.01 * whole, f"{100 * height / whole:.0f}%", ha="center", va="bottom", fontsize=9)
    axes.set(xlabel="layer", ylabel="weights (millions, no biases)", xticks=numbers, ylim=(0, 1.12 * whole))
    text = f"Remaining weights per layer, {100 * realised_sparsity(config, spec):.1f} % pruned"
    figure.suptitle(_title(text, note), fontsize=12)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9, frameon=False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    return figure


def remaining_value_dims(config: EncoderConfig, spec: CompactSpec, note: str | None) -> Figure:
    """Figure 3b: the remaining value dimensions of each head (blue), one panel per layer."""
    columns = 3 if config.num_layers > 4 else 2
    rows = math.ceil(config.num_layers / columns)
    panel_height = 0.45 + 0.1 * config.num_heads
    figure = Figure(figsize=(9, 0.9 + rows * panel_height), layout="constrained")
    panels = np.atleast_2d(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False))
    for axes in panels.flat[config.num_layers :]:
        axes.set_visible(False)
    for number, (axes, layer) in enumerate(zip(panels.flat[: config.num_layers], spec.layers, strict=True), start=1):
        kept = np.zeros((config.num_heads, config.head_dim))
        for head in layer.heads:
            kept[head.index, list(head.vo)] = 1
        _draw_grid(axes, kept)
        axes.set_title(f"layer {number}: {100 * kept.mean():.0f} %", fontsize=9, pad=3)
    figure.supxlabel("value dimension of the head", fontsize=10)
    figure.supylabel("head", fontsize=10)
    figure.suptitle(_title("Value dimensions that remain", note), x=0.01, ha="left", fontsize=12)
    squares = [Patch(facecolor=BLUE, label="remains"), Patch(facecolor=_PRUNED, edgecolor=GREY, label="pruned")]
    figure.legend(handles=squares, loc="outside upper right", ncols=2, fontsize=9, frameon=False)
    return figure


def _draw_grid(axes: Axes, kept: np.ndarray) -> None:
    """Draw one layer; kept: (H, K), 1 where a dimension remains."""
    heads, dims = kept.shape
    axes.imshow(kept, cmap=ListedColormap([_PRUNED, BLUE]), vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for line in range(1, heads):
        axes.axhline(line - 0.5, color="white", linewidth=0.8)
    shown = range(0, heads, max(1, heads // 4))
    axes.set_yticks(shown, labels=[str(head + 1) for head in shown], fontsize=8)
    axes.set_xticks(
        [0, dims // 4, dims // 2, 3 * dims // 4, dims - 1],
        labels=[str(dim) for dim in (1, dims // 4, dims // 2, 3 * dims // 4, dims)],
        fontsize=8,
    )


def hard_concrete(numbers: HardConcreteNumbers) -> Figure:
    """Figure 1: (a) the distributions of z and s_bar, (b) their means as functions of log alpha."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_distribution(left, numbers)
    _draw_means(right, numbers)
    return figure


def _draw_distribution(axes: Axes, numbers: HardConcreteNumbers) -> None:
    shown, width = numbers.distribution, (numbers.zeta - numbers.gamma) / len(numbers.distribution.s_bar)
    axes.stairs(shown.s_bar, shown.bin_edges, color=ORANGE, linewidth=2, label=r"$\bar{s}$")
    axes.stairs(
        shown.z_inside, shown.bin_edges, color=BLUE, fill=True, alpha=0.35, label=r"$z$, strictly between 0 and 1"
    )
    axes.bar([0, 1], [shown.z_zero, shown.z_one], width / 2, color=BLUE, label=r"$z$, exactly 0 or 1")
    for place, share in ((0, shown.z_zero), (1, shown.z_one)):
        axes.text(place, share, f"{100 * share:.1f} %", ha="center", va="bottom", fontsize=9)
    axes.set(xlabel="value", ylabel=f"share of samples per bin of {width:.3f}")
    axes.set_ylim(0, 1.15 * max(shown.z_zero, shown.z_one, *shown.s_bar))
    axes.set_title(
        rf"(a) distribution at $\log\alpha$ = {shown.log_alpha:g} ($\beta$ = {numbers.beta:.3g}, "
        rf"$\gamma$ = {numbers.gamma:g}, $\zeta$ = {numbers.zeta:g})",
        fontsize=11,
    )
    axes.legend(loc="upper center", fontsize=9)


def _draw_means(axes: Axes, numbers: HardConcreteNumbers) -> None:
    means = numbers.means
    s_bar = np.array(means.s_bar)
    axes.plot(means.log_alpha, means.s_bar, color=ORANGE, linewidth=2, label=r"mean $\bar{s}$")
    axes.plot(means.log_alpha, means.z, color=BLUE, linewidth=2, linestyle="--", label=r"mean $z$")
    axes.plot(
        means.log_alpha,
        means.with_gradient,
        color=GREEN,
        linewidth=1.5,
        linestyle=":",
        label=r"share of samples with $\partial z/\partial\bar{s} = 1$",
    )
    outside = (s_bar <= 0) | (s_bar >= 1)
    axes.fill_between(
        means.log_alpha, 0, 1, where=outside, transform=axes.get_xaxis_transform(), color=GREY, alpha=0.4, linewidth=0,
        label=r"$\partial z/\partial\bar{s} = 0$ at the mean",
    )  # fmt: skip
    axes.set(xlabel=r"$\log\alpha$", ylabel=f"average over {means.num_samples} samples")
    axes.set(xlim=(means.log_alpha[0], means.log_alpha[-1]), ylim=(-0.15, 1.35))
    axes.set_title(r"(b) $z$ and $\bar{s}$ as functions of $\log\alpha$", fontsize=11)
    axes.legend(loc="upper left", fontsize=9)
    axes.grid(alpha=0.3)


def _read_hard_concrete(path: Path) -> HardConcreteNumbers:
    return from_dict(HardConcreteNumbers, read_json(path), str(path))


def _title(text: str, note: str | None) -> str:
    return f"{text} ({note.upper()})" if note else text
