"""The score against costs: the drawn points, the front, and what is left out."""

import dataclasses
from itertools import pairwise

import pytest

from s3prl_pruned.config import UserError
from s3prl_pruned.report.score_figure import (
    Point,
    draw,
    front_of,
    label_places,
    left_out,
    panels_of,
    points_of,
    write_figure,
)
from s3prl_pruned.superb.score.costs import EncoderCosts
from s3prl_pruned.superb.score.scored_models import given_models, published_models


def drawn(axes, label):
    """The points that a panel draws under one label of its legend, in order."""
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    return list(zip(*line.get_data(), strict=True))


def test_published_models_are_drawn_at_their_size_and_score():
    points = {point.name: point for point in points_of(published_models(), "paper")}
    assert len(points) == 20
    assert not points.keys() & {"wav2vec", "FBANK", "Wang 2023, w/o FAHP"}  # whose size is not known
    assert not points.keys() & {"USAD Small", "DiariZen Base+, 80 %"}  # which have no score
    proposed = points["Wang 2023, proposed"]
    assert proposed.cost == 26.57 and proposed.score == pytest.approx(769.62, abs=0.01)
    (axes,) = draw({("paper", "parameters"): list(points.values())}).axes
    assert drawn(axes, "published") == [(p.cost, p.score) for p in points.values()]
    assert axes.get_title() == "paper scale" and {text.get_text() for text in axes.texts} == set(points)
    assert axes.get_xscale() == "log"  # from 22 to 317 million


def test_macs_are_the_leaderboards_printed_there_or_counted_by_its_rule():
    points = {point.name: point for point in points_of(published_models(), "leaderboard", "macs")}
    assert points["WavLM Base"].cost == 1670 and points["DPHuBERT"].cost == pytest.approx(654.1)
    assert points["wav2vec2 Base"].cost == pytest.approx(1669.156022848)  # of HuBERT Base's structure
    assert "Wang 2023, proposed" not in points and "ARMHuBERT" not in points  # no MACs are published for these


def test_every_known_cost_is_a_panel_and_the_users_own_model_is_in_each():
    models = published_models()
    (other,) = [model for model in models if model.name == "STaRHuBERT-L"]
    costs = EncoderCosts(macs=4e11, seconds=0.2)
    own = dataclasses.replace(other, name="mine", kind="measured", params_millions=20.0, costs=costs)
    assert list(panels_of(models)) == [(s, c) for s in ("paper", "leaderboard") for c in ("parameters", "macs")]
    panels = panels_of([*models, own])
    assert list(panels) == [(s, c) for s in ("paper", "leaderboard") for c in ("parameters", "macs", "time")]
    figure = draw(panels, times="a machine, 1 thread")
    assert len(figure.axes) == 6
    places = [drawn(axes, "measured here") for axes in figure.axes]
    assert [place[0][0] for place in places[:3]] == [20.0, 400.0, 200.0]
    assert figure.axes[2].get_xlabel() == "time for 5 s of audio (ms)\na machine, 1 thread"
    assert any(text.get_text().startswith("mine") for text in figure.axes[0].texts)
    assert left_out([dataclasses.replace(own, costs=EncoderCosts(macs=4e11)), own])[0] == "mine: no time"


def test_the_front_is_ringed_and_joined_and_leaves_out_what_is_not_official():
    def point(name, cost, score, **more):
        return Point(name=name, kind="published", cost=cost, score=score, **more)

    points = [point("a", 20, 700), point("b", 25, 690), point("c", 30, 800), point("d", 10, 900, exact=False)]
    assert [p.name for p in front_of(points)] == ["a", "c"]
    (axes,) = draw({("paper", "parameters"): points}).axes
    assert drawn(axes, "Pareto front") == [(20, 700), (30, 800)] and axes.get_xscale() == "linear"


def test_names_do_not_cover_each_other():
    points = [Point(name=str(i), kind="published", cost=24 + i / 10, score=700 + i) for i in range(8)]
    points.append(Point(name="far", kind="published", cost=95, score=703))
    places = {point.name: place for point, place in label_places(points, gap=10, reach=30, aside=2)}
    assert places.pop("far") == (97, 703)  # in its own column
    heights = sorted(height for _, height in places.values())
    assert min(b - a for a, b in pairwise(heights)) >= 10 - 1e-9
    assert sum(heights) / 8 == pytest.approx(703.5) and {x for x, _ in places.values()} == {26.7}


def test_a_model_of_other_settings_is_marked():
    points = [Point(name="a", kind="measured", cost=20, score=500, exact=False)]
    texts = [text.get_text() for text in draw({("leaderboard", "parameters"): points}).axes[0].texts]
    assert texts == ["a *", "* not the official settings, so not in the front"]


def test_models_that_cannot_be_drawn_are_listed(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("- {model: mine, asr: {wer: {value: 10, unit: percent}}}")
    rows = given_models(path)
    assert left_out(rows) == ["mine: no number of parameters, no score, missing pr ks qbe sid sv sd ic sf er"]
    with pytest.raises(
        UserError, match="no row has both a score and a known cost, such as its parameters .mine: no number"
    ):
        write_figure(tmp_path / "out.png", rows)
    with pytest.raises(UserError, match="a figure must be one of .* but is 'xyz'"):
        write_figure(tmp_path / "out.xyz", published_models())
    with pytest.raises(UserError, match="cannot be written"):
        write_figure(tmp_path / "none" / "out.png", published_models())
    write_figure(tmp_path / "out.png", published_models())
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 2
