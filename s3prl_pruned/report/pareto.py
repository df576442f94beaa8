"""The Pareto front of cost and quality: points that no other point beats."""

from collections.abc import Sequence


def beats(other: tuple[float, float], own: tuple[float, float]) -> bool:
    """Whether another point is no more expensive and no worse, and better in at least one of the two.

    Args:
        other: cost and quality (higher is better) of the other point.
        own: cost and quality of the point that may be beaten.
    """
    saved, gain = own[0] - other[0], other[1] - own[1]
    return saved >= 0 and gain >= 0 and (saved > 0 or gain > 0)


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (cost, quality), whether no other point beats it."""
    return [not any(beats(other, own) for other in points) for own in points]
