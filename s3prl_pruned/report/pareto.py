"""The Pareto front: what no other beats in one quality without costing more."""

from collections.abc import Sequence


def beats(other: tuple[float, float], own: tuple[float, float]) -> bool:
    """Whether another is no dearer and no worse, and one of the two better.

    Args:
        other: its cost, and its quality (higher is better).
        own: the same of the one that may be beaten.
    """
    saved, gain = own[0] - other[0], other[1] - own[1]
    return saved >= 0 and gain >= 0 and (saved > 0 or gain > 0)


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of each (cost, quality), whether no other of them beats it."""
    return [not any(beats(other, own) for other in points) for own in points]
