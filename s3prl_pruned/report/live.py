"""A figure of a running training, from its log alone: what remains of each layer under the current gates."""

import os
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from s3prl_pruned.config import UserError
from s3prl_pruned.pretrain.logging import LOG, read_log
from s3prl_pruned.sparsity.quantities import quantity_in

_LABELS = {"heads": "heads", "qk": "query/key dims", "vo": "value/output dims", "ffn": "feed-forward dims"}


def draw_remaining(folder: Path) -> Path:
    """Draw the newest line of `log.jsonl` as `<folder>/figures/remaining_structure.png`, replacing the earlier figure.

    Raises:
        UserError: if there is no log, or it lacks a needed number.
    """
    folder = Path(folder)
    lines = read_log(folder)
    try:
        figure = remaining_structure(lines[-1])
    except (IndexError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / LOG}: its last line must hold step, remaining and the sparsities ({error!r})."
        ) from error
    path = folder / "figures" / "remaining_structure.png"
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    FigureCanvasAgg(figure).print_png(temporary)
    os.replace(temporary, path)  # a viewer never sees half a picture
    return path


def remaining_structure(line: dict) -> Figure:
    """Layers (rows, the first at the bottom) by kinds of units (columns); numbers and shades are remaining shares.

    Args:
        line: a line of `log.jsonl`; `remaining` holds a share per layer for each kind of unit.
    """
    kinds = [kind for kind in _LABELS if kind in line["remaining"]]
    shares = np.array([line["remaining"][kind] for kind in kinds]).T  # (L, kinds)
    of = quantity_in(line, prefix="target_")
    figures = {
        kind: of.short_figure.format(of.scale * line[f"{kind}_{of.name}"])
        for kind in ("target", "expected", "realised")
    }
    figure = Figure(figsize=(6, 1.6 + 0.32 * len(shares)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    for (layer, kind), share in np.ndenumerate(shares):
        text = "gone" if share == 0 else f"{100 * share:.0f} %"
        axes.text(kind, layer, text, ha="center", va="center", fontsize=8, color="white" if share > 0.6 else "black")
    axes.set_xticks(range(len(kinds)), [_LABELS[kind] for kind in kinds])
    axes.set_yticks(range(len(shares)), [str(layer) for layer in range(1, len(shares) + 1)])
    axes.set_ylabel("layer")
    axes.set_title(
        f"Remaining units after step {line['step']:,}\n{of.name}: "
        + ", ".join(f"{kind} {text}" for kind, text in figures.items()),
        fontsize=10,
    )
    return figure
