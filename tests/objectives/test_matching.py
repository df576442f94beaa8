"""Pairing of teacher and student layers: cases made by hand, and a comparison with a simple search."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3prl_pruned.objectives.matching import fixed_states, match_layers, teacher_layers


def test_the_papers_teacher_layers():
    assert teacher_layers(12, 4) == [3, 6, 9, 12]
    assert teacher_layers(24, 4) == [6, 12, 18, 24]
    assert teacher_layers(4, 4) == [1, 2, 3, 4]
    assert teacher_layers(12, 1) == [12]


def test_fixed_states_are_dphuberts():
    assert fixed_states(12, 4) == [0, 4, 8, 12]
    assert fixed_states(24, 4) == [0, 8, 16, 24]
    assert fixed_states(6, 4) == [0, 2, 4, 6]
    assert fixed_states(6, 2) == [0, 6] and fixed_states(6, 1) == [6]


@given(num_layers=st.integers(1, 60), data=st.data())
def test_teacher_layers_ascend_are_near_even_and_end_at_the_last(num_layers, data):
    num_pairs = data.draw(st.integers(1, num_layers))
    layers = teacher_layers(num_layers, num_pairs)
    assert len(layers) == num_pairs and layers[-1] == num_layers and layers[0] >= 1
    assert all(a < b for a, b in itertools.pairwise(layers))
    assert all(abs(layer - num_layers * k / num_pairs) <= 0.5 for k, layer in enumerate(layers, start=1))


ALL = [True] * 6


@pytest.mark.parametrize(
    ("errors", "exists", "pairs"),
    [
        pytest.param([[0, 9, 9, 9], [9, 9, 9, 0]], [True] * 4, [(1, 3), (0, 0)], id="nearest"),
        pytest.param(
            [[9, 9, 0, 9], [9, 0, 9, 9]], [True] * 4, [(1, 1), (0, 0)], id="the deepest chooses first, order is kept"
        ),
        pytest.param([[9, 0], [0, 9]], [True] * 2, [(1, 0)], id="nothing is left below the first pick"),
        pytest.param(
            [[1, 2, 3], [3, 2, 1]], [True, True, False], [(1, 1), (0, 0)], id="a removed layer is passed over"
        ),
        pytest.param(
            [[1, 0, 5], [3, 2, 1]], [True, False, True], [(1, 2), (0, 0)], id="the best layer is passed over if removed"
        ),
        pytest.param([[1, 2, 3], [3, 2, 1]], [False, False, True], [(1, 2)], id="one layer is left"),
        pytest.param([[1, 2, 3], [3, 2, 1]], [False] * 3, [], id="no layer is left"),
        pytest.param([[5, 4, 3, 2, 1, 0]] * 4, ALL, [(3, 5), (2, 4), (1, 3), (0, 2)], id="one layer each, in order"),
        pytest.param([[0, 1, 2, 3, 4, 5]] * 4, ALL, [(3, 0)], id="the deepest takes the shallowest"),
        pytest.param([[2.0, 1.0]], [True, True], [(0, 1)], id="one pair"),
    ],
)
def test_cases_made_by_hand(errors, exists, pairs):
    assert match_layers(errors, exists) == pairs


@given(st.data())
def test_each_pick_is_the_best_existing_layer_below_the_last(data):
    num_teacher, num_student = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 8))
    row = st.lists(st.floats(0, 10), min_size=num_student, max_size=num_student, unique=True)
    errors = data.draw(st.lists(row, min_size=num_teacher, max_size=num_teacher))
    exists = data.draw(st.lists(st.booleans(), min_size=num_student, max_size=num_student))
    picked = dict(match_layers(errors, exists))
    below = num_student
    for teacher in range(num_teacher - 1, -1, -1):
        best = None
        for student in range(num_student):
            if (
                exists[student]
                and student < below
                and (best is None or errors[teacher][student] < errors[teacher][best])
            ):
                best = student
        assert picked.get(teacher) == best
        if best is None:
            assert not any(exists[:below])
        else:
            below = best
