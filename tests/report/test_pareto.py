"""The Pareto front of hand-made points."""

from s3prl_pruned.report.pareto import beats, on_front


def test_a_point_beats_another_if_it_is_no_worse_in_both_and_better_in_one():
    own = (10.0, 5.0)
    assert beats((9.0, 5.0), own) and beats((10.0, 6.0), own) and beats((9.0, 6.0), own)
    assert not beats((10.0, 5.0), own)  # an equal point
    assert not beats((9.0, 4.0), own) and not beats((11.0, 6.0), own)


def test_the_front_is_what_no_other_beats():
    points = [(20.0, 700.0), (25.0, 690.0), (25.0, 800.0), (90.0, 800.0), (95.0, 900.0), (20.0, 700.0)]
    assert on_front(points) == [True, False, True, False, True, True]
    assert on_front([]) == []
