"""Pairing of student and teacher layers (Xia et al. 2022, CoFi; Wang et al. 2023, section 3.3)."""


def teacher_layers(num_layers: int, num_pairs: int) -> list[int]:
    """Teacher states to learn from: round(L * {1..n} / n), e.g. [3, 6, 9, 12] of 12. State i is layer i's output."""
    return [round(num_layers * k / num_pairs) for k in range(1, num_pairs + 1)]


def fixed_states(num_layers: int, num_pairs: int) -> list[int]:
    """Numbers of the states that are paired between teacher and student with fixed pairs (Peng et al. 2023, DPHuBERT).

    The first layer's input, the last layer's output, and evenly spread between them, e.g. [0, 4, 8, 12] of 12. For one
    pair, the last.
    """
    if num_pairs == 1:
        return [num_layers]
    return [round(num_layers * k / (num_pairs - 1)) for k in range(num_pairs)]


def match_layers(errors: list[list[float]], exists: list[bool]) -> list[tuple[int, int]]:
    """Pair teacher layers with student layers, from the deepest teacher layer to the shallowest.

    Each teacher layer is paired with the *existing* student layer below the previous pick that has the smallest error.
    A teacher layer without any such layer is skipped. (CoFi's code decides by the attention alone whether a layer
    exists, and mixes two orders of layers; we do neither.)

    Args:
        errors: `[teacher layer, ascending depth][student layer]`, mean squared errors over the global batch.
        exists: per student layer, whether a head or an intermediate dimension of it is kept by the step's masks.

    Returns:
        (row of `errors`, column of `errors`), deepest first; empty if no layer exists.
    """
    pairs, below = [], len(exists)
    for teacher in reversed(range(len(errors))):
        candidates = [student for student in range(below) if exists[student]]
        if not candidates:
            break
        below = min(candidates, key=lambda student: errors[teacher][student])
        pairs.append((teacher, below))
    return pairs
