"""Lines for the screen about the target and the held-out loss of a finished run."""

from pathlib import Path
from typing import Any

from s3prl_pruned.pretrain.logging import best_line, judged
from s3prl_pruned.sparsity.quantities import CNN, QUANTITIES, SPARSITY, quantity_in


def target_lines(figures: dict[str, Any], *, tolerance: float, advice: str) -> list[str]:
    """Target and result.

    Args:
        figures: entry `sparsity` of the export's card.
        tolerance: allowed difference between a share and its target.
        advice: shown if the target is missed.
    """
    quantity, kinds = quantity_in(figures), ("realised", "target", "expected")
    if quantity is SPARSITY:
        reached = figures
        lines = [SPARSITY.line(figures, *kinds)]
    else:
        reached = figures[quantity.name]
        lines = [SPARSITY.line(figures, "realised", "expected"), quantity.line(reached, *kinds)]
    also = figures.get("also", [])
    lines += [QUANTITIES[further["quantity"]].line(further, *kinds) for further in also]
    over = [quantity.share(reached["realised"]) - quantity.share(reached["target"])]
    over += [further["realised"] - further["target"] for further in also]
    if abs(min(over)) > tolerance:  # of several targets one is met, and the others are passed
        lines.append(f"WARNING: the target is missed. {advice}")
    if (cnn := figures.get(CNN.name)) is not None:
        lines.append(CNN.line(cnn, *kinds))
        if abs(cnn["realised"] - cnn["target"]) > tolerance:
            lines.append(
                "WARNING: the CNN's target is missed: it has too few channels to reach it, or "
                "sparsity.match_target is off."
            )
    return lines


def held_out_lines(log: list[dict[str, Any]], folder: Path) -> list[str]:
    """Result of the last evaluation of a run, and the step of the best model on target, if it was an earlier one.

    Args:
        log: lines of the run's log.
        folder: folder of the run.
    """
    name, best = judged(log[-1]), best_line(log)
    if name is None:
        return []
    lines = [f"{name}: {log[-1][name]:.4g}"]
    if best is not None and best["step"] != log[-1]["step"]:
        lines.append(
            f"the best on target was {best[name]:.4g}, at step {best['step']}: tools/export.py {folder / 'best'} "
            "TARGET exports it"
        )
    return lines
